"use strict";

// The page asks the endpoint for plans, as a device does; it decides nothing itself.

const $ = (id) => document.getElementById(id);
const state = { manifest: null, rungs: [], budget: null, chosen: null, asked: 0 };

// Sliders: position 0..1000 on a logarithmic scale, but the error, which is linear.
const scales = {
  throughput: { from: 0.01, to: 1000, log: true },
  deadline: { from: 1, to: 100000, log: true },
  error: { from: 0, to: 100, log: false },
  operations: { from: 0.01, to: 10000, log: true },
  memory: { from: 1, to: 1000000, log: true },
};
// Those that can be left open.
const optional = ["deadline", "error", "operations", "memory"];

function fromSlider(name, position) {
  const { from, to, log } = scales[name];
  const share = position / 1000;
  const value = log ? from * (to / from) ** share : from + (to - from) * share;
  return Number(value.toPrecision(3));
}

function toSlider(name, value) {
  const { from, to, log } = scales[name];
  const within = Math.min(Math.max(value, from), to);
  return Math.round(1000 * (log ? Math.log(within / from) / Math.log(to / from) : (within - from) / (to - from)));
}

function formatBytes(bytes) {
  if (bytes >= 1e6) return `${(bytes / 1e6).toPrecision(3)} MB`;
  if (bytes >= 1e3) return `${(bytes / 1e3).toPrecision(3)} kB`;
  return `${bytes} B`;
}

function formatSeconds(seconds) {
  if (seconds === null) return "never";
  return seconds < 1 ? `${Number((1000 * seconds).toPrecision(3))} ms` : `${Number(seconds.toPrecision(3))} s`;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const sum = (values) => values.reduce((total, value) => total + value, 0);

async function fetchJson(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The endpoint does not answer; is it still running?");
  }
  const document = await response.json();
  if (!response.ok) throw new Error(document.error);
  return document;
}

function fail(error) {
  $("failure").textContent = error.message;
  $("failure").hidden = false;
}

// The 95 % Wilson interval of a share.
function interval(errors, examples) {
  const z = 1.959963984540054;
  const share = errors / examples;
  const middle = (share + (z * z) / (2 * examples)) / (1 + (z * z) / examples);
  const half =
    (z / (1 + (z * z) / examples)) * Math.sqrt((share * (1 - share)) / examples + (z * z) / (4 * examples * examples));
  return [errors === 0 ? 0 : middle - half, errors === examples ? 1 : middle + half];
}

// The manifest's columns as one object a configuration.
function readRungs({ ladder, depths, segments }) {
  let macs = 0;
  const macsOf = depths.macs.map((change) => (macs += change));
  const digests = atob(segments.sha256); // 32 bytes each
  const statistics = new Set(depths.statistics ?? []); // units of them, which are no weights
  const bytes = (needed) => {
    // Segments of equal content count once.
    const sizes = new Map(needed.map((i) => [digests.slice(32 * i, 32 * i + 32), segments.size_bytes[i]]));
    return sum([...sizes.values()]);
  };
  return ladder.name.map((name, i) => {
    const entry = ladder.segments[i];
    const needed = typeof entry === "number" ? Array.from({ length: entry }, (_, index) => index) : entry;
    const weights = needed.filter((index) => !statistics.has(segments.unit[index]));
    const finest = new Map(weights.map((index) => [segments.unit[index], segments.bits[index]]));
    const bits = [...finest.values()];
    const mask = depths.skip_mask[ladder.depth[i]];
    const [low, high] = interval(ladder.errors[i], ladder.examples[i]);
    return {
      name,
      bytes: bytes(needed),
      blocks: [...mask].filter((skip) => skip === "0").length,
      ofBlocks: mask.length,
      bits: bits.includes(null) ? null : [Math.min(...bits), Math.max(...bits)],
      macs: macsOf[ladder.depth[i]],
      error: ladder.errors[i] / ladder.examples[i],
      low,
      high,
    };
  });
}

function bitsOf({ bits }) {
  if (bits === null) return "";
  return bits[0] === bits[1] ? `${bits[0]}` : `${bits[0]} to ${bits[1]}`;
}

function blocksOf(rung) {
  const bits = rung.bits === null ? "" : `, ${bitsOf(rung)} bits a weight`;
  return `${rung.blocks} of ${rung.ofBlocks} blocks${bits}`;
}

// null if a number that is asked for is missing: then there is nothing to ask.
function readRequirements() {
  const read = (name) => $(name).valueAsNumber;
  const requirements = { throughput_bps: read("throughput") * 1e6 };
  if ($("use-deadline").checked) requirements.deadline_s = read("deadline") / 1000;
  if ($("use-error").checked) requirements.max_error = read("error") / 100;
  if ($("use-operations").checked) requirements.max_macs = Math.round(read("operations") * 1e6);
  if ($("use-memory").checked) requirements.max_memory_bytes = Math.round(read("memory") * 1e3);
  return Object.values(requirements).every(Number.isFinite) ? requirements : null;
}

async function update() {
  for (const name of optional) {
    $(name).closest(".control").classList.toggle("off", !$(`use-${name}`).checked);
    $(name).disabled = $(`${name}-slider`).disabled = !$(`use-${name}`).checked;
  }
  const requirements = readRequirements();
  if (!requirements) return;
  const asked = ++state.asked;
  try {
    const plan = await fetchJson(`v1/models/${state.manifest.model_id}/plan`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ requirements }),
    });
    if (asked !== state.asked) return; // a later question is on its way
    $("failure").hidden = true;
    const { deadline_s: deadline, throughput_bps: throughput } = requirements;
    state.budget = deadline === undefined ? null : (deadline * throughput) / 8;
    show(plan);
  } catch (error) {
    if (asked === state.asked) fail(error);
  }
}

function show(plan) {
  const rung = state.rungs.find((each) => each.name === plan.configuration);
  const full = state.rungs.at(-1).bytes;
  state.chosen = plan.configuration;
  $("configuration").textContent = plan.configuration ?? "nothing";
  $("blocks").textContent = rung ? blocksOf(rung) : "";
  $("bytes").textContent = `${formatBytes(plan.transfer_bytes)}, ${percent(plan.transfer_bytes / full)} of the model`;
  $("bytes").dataset.value = plan.transfer_bytes;
  $("expected-error").textContent = rung
    ? `${percent(plan.expected_error)} (${percent(rung.low)} to ${percent(rung.high)})`
    : "–";
  $("seconds").textContent = rung ? formatSeconds(plan.expected_seconds) : "–";
  $("unmet").hidden = plan.unmet.length === 0;
  $("unmet").replaceChildren(
    ...plan.reasons.map((reason) => {
      const item = document.createElement("li");
      item.textContent = reason;
      return item;
    }),
  );
  $("unmet").dataset.names = plan.unmet.join(" ");
  drawChart();
  for (const line of $("rows").children) line.classList.toggle("chosen", line.dataset.name === state.chosen);
  document.body.dataset.plan = state.asked;
}

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Round steps, at most `count` of them up to `largest`.
function ticks(largest, count) {
  const rough = largest / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  return Array.from({ length: Math.floor(largest / step + 1e-9) + 1 }, (_, i) => i * step);
}

// 1, 2, 5, 10, 20 ... between two sizes; only powers of ten if that would be too many.
function logTicks(least, most, count) {
  const powers = Array.from({ length: 19 }, (_, i) => 10 ** i);
  const within = (factors) =>
    powers.flatMap((power) => factors.map((factor) => factor * power)).filter((size) => least <= size && size <= most);
  return [[1, 2, 5], [1, 3], [1]].map(within).find((sizes) => sizes.length <= count) ?? [];
}

function drawChart() {
  const narrow = window.innerWidth < 600;
  const [width, height, left, right, top, bottom] = narrow ? [420, 300, 48, 14, 12, 46] : [900, 340, 56, 20, 12, 46];
  const points = state.rungs;
  const [least, most] = [points[0].bytes / 1.15, points.at(-1).bytes * 1.15];
  const worst = Math.min(1, Math.max(...points.map(({ high }) => high)) * 1.05);
  // Logarithmic, as deadlines are: the first blocks are small, and gain most.
  const x = (bytes) => left + ((width - left - right) * Math.log(bytes / least)) / Math.log(most / least);
  const y = (error) => top + (height - top - bottom) * (1 - error / worst);
  const parts = [];
  for (const error of ticks(worst, 5)) {
    parts.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(error), y2: y(error) }));
    parts.push(svg("text", { x: left - 8, y: y(error) + 4, "text-anchor": "end" }, `${Number((100 * error).toPrecision(3))} %`));
  }
  for (const bytes of logTicks(least, most, narrow ? 6 : 12)) {
    parts.push(svg("line", { class: "grid", x1: x(bytes), x2: x(bytes), y1: top, y2: height - bottom }));
    parts.push(svg("text", { x: x(bytes), y: height - bottom + 18, "text-anchor": "middle" }, formatBytes(bytes).replace(/\.0+ /, " ")));
  }
  parts.push(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "bytes of the configuration (logarithmic)"));
  if (state.budget !== null && least <= state.budget && state.budget <= most) {
    parts.push(svg("line", { class: "budget", x1: x(state.budget), x2: x(state.budget), y1: top, y2: height - bottom }));
  }
  // What is best for its bytes: some are there for what they save of operations.
  let best = Infinity;
  const curve = points.filter(({ error }) => error < best && ((best = error), true));
  parts.push(svg("polyline", { class: "curve", points: curve.map(({ bytes, error }) => `${x(bytes)},${y(error)}`).join(" ") }));
  for (const rung of points) {
    const { name, bytes, error, low, high } = rung;
    parts.push(svg("line", { class: "interval", x1: x(bytes), x2: x(bytes), y1: y(low), y2: y(high) }));
    const point = svg("circle", { class: "point", cx: x(bytes), cy: y(error), r: points.length > 30 ? 3 : 4 });
    point.append(svg("title", {}, `${name}: ${blocksOf(rung)}, ${formatBytes(bytes)}, error ${percent(error)}`));
    parts.push(point);
    if (name === state.chosen) {
      parts.push(svg("circle", { class: "chosen", cx: x(bytes), cy: y(error), r: 9 }));
    }
  }
  $("chart").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("chart").replaceChildren(...parts);
}

function fillTable() {
  const full = state.rungs.at(-1).bytes;
  $("rows").replaceChildren(
    ...state.rungs.map((rung) => {
      const line = document.createElement("tr");
      line.dataset.name = rung.name;
      const cells = [
        rung.name,
        `${rung.blocks}`,
        bitsOf(rung) || "–",
        rung.bytes.toLocaleString("en"),
        percent(rung.bytes / full),
        `${(rung.macs / 1e6).toPrecision(3)} M`,
        percent(rung.error),
        `${percent(rung.low)} to ${percent(rung.high)}`,
      ];
      line.append(
        ...cells.map((text) => {
          const cell = document.createElement("td");
          cell.textContent = text;
          return cell;
        }),
      );
      return line;
    }),
  );
}

async function choose(modelId) {
  state.manifest = await fetchJson(`v1/models/${modelId}`);
  state.rungs = readRungs(state.manifest);
  $("manifest").href = `v1/models/${modelId}`;
  $("main").hidden = false;
  fillTable();
  await update();
}

async function start() {
  for (const name of Object.keys(scales)) {
    const [slider, number] = [$(`${name}-slider`), $(name)];
    slider.value = toSlider(name, number.valueAsNumber);
    slider.addEventListener("input", () => {
      number.value = fromSlider(name, slider.valueAsNumber);
      update();
    });
    number.addEventListener("input", () => {
      if (Number.isFinite(number.valueAsNumber)) slider.value = toSlider(name, number.valueAsNumber);
      update();
    });
  }
  for (const name of optional.map((each) => `use-${each}`)) $(name).addEventListener("change", update);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("model").addEventListener("change", () => choose($("model").value).catch(fail));
  window.addEventListener("resize", () => state.manifest && drawChart());
  const { models } = await fetchJson("v1/models");
  if (models.length === 0) {
    throw new Error("No model yet: write one with python -m accordion_jax.bundle, then load this page again.");
  }
  $("model").replaceChildren(
    ...models.map((model) => {
      const when = model.created ? `, ${model.created.slice(0, 10)}` : "";
      return new Option(`${model.model_id.slice(0, 8)} (${model.family}, ${formatBytes(model.size_bytes)}${when})`, model.model_id);
    }),
  );
  $("model-picker").hidden = models.length < 2;
  await choose(models[0].model_id);
}

start().catch(fail);
