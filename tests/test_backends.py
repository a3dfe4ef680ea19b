"""TensorFlow, JAX and PyTorch: the same weights give the same answers, and trained networks move between them."""

import keras
import numpy as np
import pytest
from backends import OTHERS, on, skip_where_missing
from family import FAMILY, make

import genenet as gn
from genenet.folder import write_json


def networks():
    """One of every kind with the windows that it reads; `own-gene` would need a module of its own there."""
    for name in FAMILY:
        if name != "own-gene":
            yield name, make(name), make(name).window_shape().input
    yield "patches", gn.PatchNet(3, maps=(6, 4, 3, 5)), (41, 44)


# Loads each model, builds its blueprint too, and writes both answers.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import genenet as gn
from genenet.device import import_keras
from genenet.folder import read_json
from genenet.saving import load_model
keras = import_keras()
assert keras.backend.backend() == sys.argv[2]
for folder in sorted(Path(sys.argv[1]).iterdir()):
    image = np.load(folder / "image.npy")
    loaded = load_model(folder / "model.keras")
    built = gn.from_dict(read_json(folder / "blueprint.json")).build()
    built.set_weights(loaded.get_weights())
    for name, model in (("loaded", loaded), ("built", built)):
        answer = model.predict_on_batch(image)
        answer = answer[0] if isinstance(answer, list) else answer
        np.save(folder / f"{name}.npy", np.asarray(answer))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_every_network_gives_the_same_on_every_backend(backend, tmp_path):
    skip_where_missing(backend)
    rng = np.random.default_rng(0)
    expected = {}
    for name, net, window in networks():
        model = net.build(seed=2)
        for variable in model.variables:
            if "moving" in variable.path:
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        image = rng.normal(size=(2, *window, 1)).astype(np.float32)
        folder = tmp_path / name
        folder.mkdir()
        model.save(folder / "model.keras")
        write_json(folder / "blueprint.json", net.to_dict())
        np.save(folder / "image.npy", image)
        answer = model.predict_on_batch(image)
        expected[name] = answer[0] if isinstance(answer, list) else answer
    on(backend, SCRIPT, tmp_path, backend)
    for name, answer in expected.items():
        for how in ("loaded", "built"):
            np.testing.assert_allclose(np.load(tmp_path / name / f"{how}.npy"), answer, atol=1e-4, err_msg=name)
    assert keras.backend.backend() == "tensorflow"


TRAIN = """
import sys
import genenet as gn
from genenet.augment import Augmentation
from genenet.settings import TrainingSettings, WindowSettings
windows = WindowSettings(batch_size=2, augmentation=Augmentation.off())
settings = TrainingSettings(steps=12, validate_every=6, checkpoint_every=6, precision="float32", windows=windows)
net = gn.EncoderDecoder(3, n_scales=1, n_features=4, window_size=32, normalization="batch", log10_learning_rate=-2.0)
print(gn.train_network(net, gn.Dataset.open(sys.argv[1]), sys.argv[2], settings).scores["adjusted_rand"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_networks_trained_on_another_backend_are_used_here(backend, data_file, data_settings, tmp_path):
    skip_where_missing(backend)
    score = float(on(backend, TRAIN, data_file, tmp_path / "net"))
    network = gn.Network.open(tmp_path / "net")
    assert network.details["versions"]["backend"] == backend
    found = gn.Ensemble((network,)).score(gn.Dataset.open(data_file), precision="float32")
    assert found.adjusted_rand == pytest.approx(score, abs=1e-4)
