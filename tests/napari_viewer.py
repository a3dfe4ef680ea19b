"""Opens OME-Zarr files in a real napari, writes a picture of its window, and says what the layers are, as JSON.

python napari_viewer.py PICTURE.png FILE...
"""

import json
import sys


def describe(layer):
    """A layer's kind, levels, scale and colours."""
    data = layer.data if layer.multiscale else [layer.data]
    colors = getattr(layer.colormap, "color_dict", {})
    return {
        "kind": type(layer).__name__,
        "shapes": [list(level.shape) for level in data],
        "scale": [float(size) for size in layer.scale],
        "units": [str(unit) for unit in layer.units],
        "colors": {str(value): [float(part) for part in color] for value, color in colors.items() if value is not None},
    }


def main(picture, paths):
    import napari

    viewer = napari.Viewer()
    for path in paths:
        viewer.open(path, plugin="napari-ome-zarr")
    for layer in viewer.layers:
        layer.visible = True
    viewer.dims.set_current_step(0, viewer.dims.nsteps[0] // 2)
    viewer.screenshot(picture, canvas_only=False, flash=False)
    sys.stdout.write(json.dumps([describe(layer) for layer in viewer.layers]) + "\n")
    viewer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
