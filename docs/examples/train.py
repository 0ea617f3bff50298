"""Trains a few steps on whatever is there: cuda in a container on a GPU server, mps natively on a Mac, else the CPU."""

import os

import torch


def pick_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():  # natively on macOS only; never in a container
        return torch.device("mps")
    return torch.device("cpu")


torch.manual_seed(0)
device = pick_device()
model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
inputs = torch.randn(256, 16)
targets = inputs.sum(dim=1, keepdim=True)
# workers hand batches over in shared memory: see shm_size in compose.yaml and the volume at /dev/shm in pod.yaml
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=32, num_workers=2)
for _ in range(5):
    for x, y in batches:
        loss = torch.nn.functional.mse_loss(model(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
# weights are saved from the CPU, so that every machine loads them
torch.save({k: v.cpu() for k, v in model.state_dict().items()}, os.environ.get("OUT", "/tmp/model.pt"))
print(f"torch {torch.__version__} on {device}: loss {loss.item():.4f}")
