//! (Being written by the lead: the built-in trainer, pure: rows in, plain ONNX and manifest draft out.)
