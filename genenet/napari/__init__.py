"""The napari plugin: correct a segmentation, with the time logged. Only this folder knows of Qt and napari."""
