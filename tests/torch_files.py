"""Files as `torch.save` writes them, made without PyTorch."""

import pickle
import zipfile

import numpy as np

# The types of storages by the types of their numbers.
STORAGES = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
}


def plain(value):
    """The opcodes of a plain value, without the frame around them."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key="0", count=6, kind=b"ctorch\nFloatStorage\n"):
    return (
        b"("
        + plain("storage")
        + kind
        + plain(key)
        + plain("cpu")
        + plain(count)
        + b"tQ"
    )


def tensor(offset=0, shape=(2, 3), strides=(3, 1), held=None):
    numbers = plain(offset) + plain(shape) + plain(strides)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (held or storage())
        + numbers
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state(**tensors):
    return (
        b"\x80\x02}("
        + b"".join(plain(name) + held for name, held in tensors.items())
        + b"u."
    )


def archive(path, content, compression=zipfile.ZIP_STORED, extra=(), numbers=None):
    numbers = np.arange(6, dtype=np.float32) if numbers is None else numbers
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/data/0", numbers.tobytes())
        for name, data in extra:
            file.writestr(name, data)
    return path


def save(path, arrays):
    """One array, or several by name, each in a storage of its own, by rows or by columns."""
    alone = not isinstance(arrays, dict)
    tensors = {}
    numbers = []
    for name, array in ({"it": arrays} if alone else arrays).items():
        kind = f"ctorch\n{STORAGES[array.dtype.name]}Storage\n".encode()
        strides = tuple(stride // array.itemsize for stride in array.strides)
        held = storage(str(len(numbers)), array.size, kind)
        tensors[name] = tensor(0, array.shape, strides, held)
        numbers.append(array.ravel(order="K"))
    content = b"\x80\x02" + tensors["it"] + b"." if alone else state(**tensors)
    rest = [
        (f"archive/data/{i}", more.tobytes()) for i, more in enumerate(numbers) if i
    ]
    return archive(path, content, extra=rest, numbers=numbers[0])
