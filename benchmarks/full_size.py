"""Full-size checkpoints exported and measured: ``python benchmarks/full_size.py --model sdxl``."""

from fam_bench.full_size import main

if __name__ == "__main__":
    raise SystemExit(main())
