"""PyTorch's `torchrun` on the locked packages: one of these on each host, see docs/scaling.md."""

from torch.distributed.run import main

if __name__ == "__main__":
    main()
