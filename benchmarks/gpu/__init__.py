"""Speed on one GPU, in one command: python -m benchmarks.gpu [--json FILE]

MMOE with 8 experts [512, 256] and embeddings of width 128 on AliExpress-shaped rows (16 categorical and 63 numeric
columns, 2 tasks), Adam. Sections in the order of what one wants to know, each in a process of its own with a time
limit: the rates of the device, the steps of `Sum` and `PCGrad` recorded and launched, every balancer, profiles,
precisions, vocabularies, whole epochs. Of each contender it is said whether its step was recorded as a CUDA graph, and
why not. The file is written row by row, so that a run that is cut keeps what it has.

`python -m benchmarks.gpu.first CHECK` holds what a GPU must show first; `benchmarks/first_gpu.sh` runs all of it.
With `--device cpu` stand-ins take the place of `torch.cuda`, and everything is small: a rehearsal, without figures.
"""
