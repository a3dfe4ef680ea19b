"""Three rounds of segment, correct, learn: a simulated person corrects the most doubtful regions of a new volume."""

import shutil
from pathlib import Path

import genenet as gn
from genenet.corrections.effort import Effort
from genenet.corrections.learn import learn, rounds
from genenet.corrections.regions import Regions
from genenet.corrections.simulate import Corrector
from genenet.corrections.store import Corrections
from genenet.phantom_files import write_phantom
from genenet.settings import TrainingSettings, WindowSettings

folder = Path("runs/corrections-example")
shutil.rmtree(folder, ignore_errors=True)
data = write_phantom(folder / "annotated", (6, 192, 192), overwrite=True)
write_phantom(folder / "new", (6, 192, 192), seed=1, overwrite=True)
image, truth = (gn.open_volume(folder / "new" / f"{name}.ome.zarr") for name in ("image", "labels"))

windows = WindowSettings(batch_size=2)
training = TrainingSettings(steps=60, validate_every=30, windows=windows)
net = gn.EncoderDecoder(n_classes=7, n_features=8, n_scales=2, window_size=96, log10_learning_rate=-2.5)
networks = [gn.train_network(net, gn.Dataset.open(data), folder / f"net{seed}", training, seed=seed) for seed in (0, 1)]
ensemble = gn.Ensemble(tuple(networks))

for number in (1, 2, 3):
    # The networks segment the volume; a person looks at a tenth of it, where they are most in doubt.
    cells, doubt = folder / f"cells{number}.ome.zarr", folder / f"doubt{number}.ome.zarr"
    ensemble.segment(image, cells, extras={"entropy": doubt})
    kept = Corrections.create(
        folder / f"cells{number}.corrections", image=image.source, segmentation=cells, doubt=doubt
    )
    regions = Regions.measure(gn.open_volume(doubt), size=(1, 48, 48), effort=Effort())
    corrector = Corrector(kept, truth)
    corrector.work([regions.box(place) for place in regions.order()], max_voxels=0.1 * truth.shape[0] * 192 * 192)
    corrector.close()
    done = learn(folder / "rounds", ensemble, data, [kept], training)
    ensemble = gn.Ensemble.open(done.folder / "ensemble")
    print(
        f"round {done.number}: {done.n_changed:,} voxels corrected in {corrector.seconds / 60:.1f} simulated minutes; "
        f"adjusted Rand score {done.before:.3f} -> {done.after:.3f}, predicted correction time "
        f"{done.predicted_before:.1f} -> {done.predicted_after:.1f} min per million voxels"
    )

print(f"{len(rounds(folder / 'rounds'))} rounds in {folder / 'rounds'}")
