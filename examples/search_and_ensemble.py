"""Search three small networks, average the best, segment a volume that none has seen, write the report."""

import genenet as gn
import search
from genenet.phantom_files import write_phantom
from search import Choice, Levels, Range
from search.report import write_report

data = write_phantom("runs/phantom", (16, 256, 256), overwrite=True)
unseen = write_phantom("runs/unseen", (4, 256, 256), seed=1, overwrite=True)

space = search.Space(
    gn.EncoderDecoder(n_classes=7, window_size=96),
    {
        "n_scales": Range(1, 2),
        "n_features": Levels(Range(8, 12), Range(-2, 2)),
        "pooling": Choice("max", "strided"),
        "log10_learning_rate": Range(-3, -2),
    },
)
study = search.Study.create("runs/search-example", space, data=data, steps=60, n_trials=3, baseline=False)
study.run()
print(study.leaderboard().to_string())

ensemble = gn.Ensemble.select(study.networks(), data=data)
ensemble.save(study.folder / "ensemble")
for point in ensemble.curve:
    print(f"the best {point.n_members}: adjusted Rand score {point.adjusted_rand:.3f}")

ensemble.segment("runs/unseen/image.ome.zarr", "runs/unseen/segmentation.ome.zarr", overwrite=True)
print(f"unseen volume: {gn.evaluate('runs/unseen/segmentation.ome.zarr', unseen).adjusted_rand:.3f}")
print(f"report: {write_report(study)}")
