//! Partition tables: GPT and MBR, read without the kernel.
