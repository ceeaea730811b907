"""Models of others, and ours for others: ONNX files and bioimage.io packages.

`onnx_model` reads them, `export` writes them. Needs the packages of `pip install 'tilesegment[onnx]'`. Nothing in a
model file is executed but the operators of ONNX, by onnxruntime.
"""
