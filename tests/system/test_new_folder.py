import pytest

from accordion_jax.system.files import new_folder


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    wanted = tmp_path / "deep" / "folder"
    with new_folder(wanted) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("content")
        assert not wanted.exists()
    assert (wanted / "inner" / "file").read_text() == "content"
    other = wanted.with_name("other")

    def write_half():
        with new_folder(other) as folder:
            (folder / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(wanted.parent.iterdir()) == [wanted]


def test_what_another_process_put_there_meanwhile_stays(tmp_path):
    with new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_text("theirs")
    assert (tmp_path / "folder" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
