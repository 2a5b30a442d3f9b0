"""Files to go on from: what is kept, what is refused, what is passed over."""

import pytest
from envs import LengthFromSeedEnv, parameters, run_rounds, simulated, train_rounds
from paper import RennalaNIGT
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt.distributed import RoundCheckpoint, newest_checkpoint


def new_model():
    env = simulated([LengthFromSeedEnv] * 2)
    return RennalaNIGT("MlpPolicy", env, n_trajectories=7, policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Of a run of six rounds, of which the last one was not saved."""
    run_rounds(new_model(), 6, RoundCheckpoint(tmp_path, keep=3))
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_files_stay(folder):
    assert names(folder) == ["round_4.zip", "round_5.zip", "round_6.zip"]
    loaded, whole = RennalaNIGT.load(newest_checkpoint(folder), env=new_model().env), new_model()
    train_rounds(loaded, 8, RoundCheckpoint(folder, keep=1))
    run_rounds(whole, 8)
    assert (parameters(loaded) == parameters(whole)).all()
    assert names(folder) == ["round_7.zip"]


def test_no_folder(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def change_the_compression(path):
    """To one that does not exist, in the last entry of the list of contents."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 10] = 77
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, change_the_compression])
def test_a_damaged_file_is_passed_over(damage, folder):
    damage(folder / "round_6.zip")
    with pytest.warns(UserWarning, match=r"round_6.zip is damaged and was skipped: "):
        assert newest_checkpoint(folder).name == "round_5.zip"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    model = new_model()
    model.set_env(VecNormalize(model.env))

    def save(path):
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(model, "save", save)
    with pytest.raises(OSError, match="no space"):
        run_rounds(model, 2, RoundCheckpoint(tmp_path))
    assert names(tmp_path) == []


def test_a_run_that_goes_on_from_an_older_file_since_the_newest_is_damaged(folder):
    cut(folder / "round_6.zip")
    with pytest.warns(UserWarning, match="damaged"):
        path = newest_checkpoint(folder)
    model = RennalaNIGT.load(path, env=new_model().env)
    with pytest.warns(UserWarning, match="damaged"):
        train_rounds(model, 8, RoundCheckpoint(folder))
    assert newest_checkpoint(folder).name == "round_7.zip"


def test_a_new_run_in_the_folder_of_another_is_refused(folder):
    with pytest.raises(ValueError, match=r"would begin after 0 updates, while there is .*round_6.zip: load newest_checkpoint"):
        new_model().learn(100, callback=RoundCheckpoint(folder))
    assert names(folder) == ["round_4.zip", "round_5.zip", "round_6.zip"]


def test_what_a_crash_has_left_is_removed(tmp_path):
    """It had not got its name yet, so it is not taken for a file to go on from either."""
    (tmp_path / "unfinished-host-1.zip").write_bytes(b"half of it")
    assert newest_checkpoint(tmp_path) is None
    run_rounds(new_model(), 2, RoundCheckpoint(tmp_path))
    assert names(tmp_path) == ["round_1.zip", "round_2.zip"]
