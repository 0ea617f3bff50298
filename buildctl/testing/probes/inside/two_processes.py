# `ask` and `OPTIONS` come from ask.py, which is put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821, PTH118
"""Runs inside the image: data-parallel training in two processes. They meet through a file: no port, no name."""

import json
import os
import subprocess
import sys
import tempfile

RANK = """
import json, sys
rank, backend, store = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import torch
import torch.distributed as dist
if backend == "nccl":
    torch.cuda.set_device(rank)
device = f"cuda:{rank}" if backend == "nccl" else "cpu"
dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)
total = torch.tensor([float(rank + 1)], device=device)
dist.all_reduce(total)
torch.manual_seed(rank)
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1).to(device))
net(torch.tensor([[float(rank + 1)]], device=device)).sum().backward()
gradient = float(net.module.weight.grad)
print("RANK", json.dumps({"world": dist.get_world_size(), "sum": float(total), "gradient": gradient}))
dist.destroy_process_group()
"""


def two_processes():
    backend = OPTIONS.get("backend", "gloo")
    store = os.path.join(tempfile.mkdtemp(), "store")
    # gloo would look up the machine's own name otherwise, which a container without network may not know
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    env = {**os.environ, "GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", RANK]
    running = [
        subprocess.Popen([*argv, str(n), backend, store], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(2)
    ]
    ranks = []
    for process in running:
        out, err = process.communicate()
        line = next((text for text in out.decode().splitlines() if text.startswith("RANK ")), None)
        if line is None:
            for other in running:
                other.kill()
            raise RuntimeError(err.decode(errors="replace")[-1500:] or f"exit code {process.returncode}")
        ranks.append(json.loads(line[5:]))
    return {"backend": backend, "ranks": ranks}


if __name__ == "__main__":
    ask("two_processes", two_processes)
