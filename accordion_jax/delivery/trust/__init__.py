"""Who may answer for a model: signed releases, keys that rotate, and what a device has pinned.

Without a pinned key nothing here is asked. With one, a device takes a model from a network only
with a *release*, a signed statement that this ``model_id`` is this version of this line. The keys
are those of a *trust file*, whose successors the keys before must sign.
"""
