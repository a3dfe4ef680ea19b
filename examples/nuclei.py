"""Nuclei one by one: train two branches on images with numbered nuclei, find nuclei in others, prune the branches."""

import shutil
from pathlib import Path

import genenet as gn
from genenet.instance_segmentation import evaluate_instances, read_merging
from genenet.phantom_tissue import write_tissue
from genenet.prune_branches import prune_branches
from genenet.prune_network import PruningSettings
from genenet.segment_instances import images_in, segment_folder
from genenet.train_branches import blueprints, branch_settings, train_branches

folder = Path("runs/nuclei-example")
shutil.rmtree(folder, ignore_errors=True)
# A folder of images and one of instance labels of the same names, and a data.yaml that names them: yours looks alike.
data = gn.Dataset.open(write_tissue(folder / "data", (160, 160), n_images=8))

# One network tells nuclei from the rest, one gives the distance to their borders; these are small, for a quick look.
nets = blueprints(data, depth=18, n_features=16, window_size=128)
settings = branch_settings(steps=100, validate_every=50)
branches = train_branches(nets, data, folder / "branches", settings, n_trials=20)
merging = read_merging(folder / "branches")
found, _ = evaluate_instances(branches, data, merging=merging)
print(f"aggregated Jaccard index {found.aggregated_jaccard:.3f}, panoptic quality {found.pq:.3f}")

# Labels, outlines for QuPath and pictures of every image of a folder, and a table of all nuclei.
done = segment_folder(branches, images_in(folder / "data" / "images"), folder / "found", merging=merging)
print(f"{len(done.objects)} nuclei in {done.n_images} images, in {done.output}")

# Half of the weights, each layer alike, with some training afterwards; `compression_ratio=16` would halve four times.
again = branch_settings(steps=30, validate_every=30)
halved = PruningSettings("magnitude", compression_ratio=2, scope="layer")
curve = prune_branches(branches, data, folder / "pruned", halved, again, merging=merging)
print(curve[["compression_ratio", "theoretical_speedup", "aggregated_jaccard", "pq"]].round(3).to_string(index=False))
