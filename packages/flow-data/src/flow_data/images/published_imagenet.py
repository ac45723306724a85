"""What is published about the two downsampled ImageNets; `[True]` is the training part.

Digests are those that several public loaders of the 32x32 files of Chrabaszcz et al. agree on; for
64x64, and for the files of van den Oord et al., there are none.
"""

PIXELRNN_COUNTS = {True: 1281149, False: 49999}
CHRABASZCZ_COUNTS = {True: 1281167, False: 50000}

# md5 of the 32x32 file of that name; the files of 64x64 have the same names.
CHRABASZCZ: dict[bool, dict[str, str]] = {
    True: {
        "train_data_batch_1.npz": "464fde20de6eb44c28cc1a8c11544bb1",
        "train_data_batch_2.npz": "bdb56e71882c3fd91619d789d5dd7c79",
        "train_data_batch_3.npz": "83ff36d76ea26867491a281ea6e1d03b",
        "train_data_batch_4.npz": "98ff184fe109d5c2a0f6da63843880c7",
        "train_data_batch_5.npz": "62b8803e13c3e6de9498da7aaaae57c8",
        "train_data_batch_6.npz": "e0b06665f890b029f1d8d0a0db26e119",
        "train_data_batch_7.npz": "9731f469aac1622477813c132c5a847a",
        "train_data_batch_8.npz": "60aed934b9d26b7ee83a1a83bdcfbe0f",
        "train_data_batch_9.npz": "b96328e6affd718660c2561a6fe8c14c",
        "train_data_batch_10.npz": "1dc618d544c554220dd118f72975470c",
    },
    False: {"val_data.npz": "a8c04a389f2649841fb7a01720da9dd9"},
}
