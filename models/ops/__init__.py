"""Operations in two ways: one that is fast on CPUs at the sizes of these models, and the library's.

Each takes the fast way where its input is on a CPU and elsewhere the library's, whose kernels are made for GPUs. Both
give the same numbers up to rounding, gradients included; the library's stands beside the fast one as `*_reference`.
"""
