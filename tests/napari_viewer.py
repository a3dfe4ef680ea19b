"""Opens OME-Zarr files in a real napari, writes a picture of its window, and says what the layers are, as JSON.

python napari_viewer.py PICTURE.png FILE...
"""

import json
import sys

import napari

viewer = napari.Viewer()
for path in sys.argv[2:]:
    viewer.open(path, plugin="napari-ome-zarr")
layers = []
for layer in viewer.layers:
    layer.visible = True
    data = layer.data if layer.multiscale else [layer.data]
    colors = getattr(layer.colormap, "color_dict", {})
    layers.append(
        {
            "kind": type(layer).__name__,
            "shapes": [list(level.shape) for level in data],
            "scale": [float(size) for size in layer.scale],
            "units": [str(unit) for unit in layer.units],
            "colors": {
                str(value): [float(part) for part in color] for value, color in colors.items() if value is not None
            },
        }
    )
viewer.dims.set_current_step(0, viewer.dims.nsteps[0] // 2)
viewer.screenshot(sys.argv[1], canvas_only=False, flash=False)
sys.stdout.write(json.dumps(layers) + "\n")
viewer.close()
