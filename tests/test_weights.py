import numpy as np
import pytest

from r3p import weights
from r3p.errors import InputError


def test_round_trip_keeps_trees_and_description(tmp_path):
    path = tmp_path / "a.npz"
    trees = {"params": {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}, "canonical": np.ones((2, 2))}
    weights.save(path, trees, {"kind": "portrait", "fields": {"x": (1, 2)}}, dtype=np.float16)
    back, meta = weights.load(path, "portrait")
    np.testing.assert_array_equal(back["params"]["a"]["kernel"], trees["params"]["a"]["kernel"])
    assert back["canonical"].dtype == np.float32
    assert meta["fields"] == {"x": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no file"):
        weights.load(tmp_path / "none.npz", "portrait")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="is not a portrait file"):
        weights.load(tmp_path / "text.npz", "portrait")
    weights.save(tmp_path / "other.npz", {"a": np.ones(2)}, {"kind": "audio2motion"})
    with pytest.raises(InputError, match="'audio2motion', expected 'portrait'"):
        weights.load(tmp_path / "other.npz", "portrait")


def test_values_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        weights.save(tmp_path / "big.npz", {"a": np.array([1e6])}, {"kind": "x"}, dtype=np.float16)
    assert not list(tmp_path.iterdir())
    weights.save(tmp_path / "nan.npz", {"a": np.array([np.nan])}, {"kind": "x"})
    with pytest.raises(InputError, match="damaged"):
        weights.load(tmp_path / "nan.npz", "x")


def test_pickles_are_not_run(tmp_path):
    path = tmp_path / "hostile.npz"
    np.savez(path, a=np.array([print], dtype=object))
    with pytest.raises(InputError, match="is not a portrait file"):
        weights.load(path, "portrait")
