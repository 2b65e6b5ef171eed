"""Turn a GGUF model into Q4_0, the format that llama.cpp's kernels are fastest at.

Usage: make_gguf.py MODEL.gguf OUT.gguf. Every matrix becomes Q4_0, except the embedding, which becomes Q8_0: what
`llama-quantize MODEL OUT q4_0` does with a model whose rows are no multiple of 256. Metadata and vectors are copied.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType, GGUFWriter, Keys, LlamaFileType, ReaderField
from gguf.quants import dequantize, quantize

from edgec.whole_file import whole_file

WRITTEN_BY_WRITER = {Keys.General.ARCHITECTURE, Keys.General.FILE_TYPE}  # and the counts of the header, `GGUF.*`
EIGHT_BITS = {"token_embd.weight", "output.weight"}


def add_field(writer: GGUFWriter, field: ReaderField, contents: Any) -> None:
    """A field of another file, with its type."""
    kind = field.types[0]
    writer.add_key_value(field.name, contents, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)


def convert(source: Path, target: Path) -> None:
    """Write `source`, requantized, to `target`."""
    reader = GGUFReader(source)
    architecture = str(reader.fields[Keys.General.ARCHITECTURE].contents())
    with whole_file(target) as partial:
        writer = GGUFWriter(partial, architecture)
        writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
        for field in reader.fields.values():
            if field.name not in WRITTEN_BY_WRITER and not field.name.startswith("GGUF."):
                add_field(writer, field, field.contents())
        for tensor in reader.tensors:
            if len(tensor.shape) == 1:
                writer.add_tensor(tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
                continue
            wanted = Type.Q8_0 if tensor.name in EIGHT_BITS else Type.Q4_0
            values = tensor.data
            if tensor.tensor_type != wanted:
                values = quantize(dequantize(tensor.data, tensor.tensor_type), wanted)
            writer.add_tensor(tensor.name, values, raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
