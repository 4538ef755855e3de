"""MAML with `higher`: its Omniglot example, on glyphs. Beside it, `jmeta_maml.py`."""

import higher
import torch
from torch import nn
from torch.nn import functional as F


def make_model(ways):
    def block(channels):
        return [
            nn.Conv2d(channels, 64, 3),
            nn.BatchNorm2d(64, momentum=1, affine=True),
            nn.ReLU(),
            nn.MaxPool2d(2, 2),
        ]

    return nn.Sequential(
        *block(1), *block(64), *block(64), nn.Flatten(), nn.Linear(64, ways)
    )


def train(net, batches, inner_steps=5):
    """A step of Adam for each batch of tasks; the query losses and accuracies."""
    meta_opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    log = []
    for x_spt, y_spt, x_qry, y_qry in batches:
        task_num = x_spt.shape[0]
        inner_opt = torch.optim.SGD(net.parameters(), lr=1e-1)
        meta_opt.zero_grad()
        losses, accuracies = [], []
        for i in range(task_num):
            with higher.innerloop_ctx(net, inner_opt, copy_initial_weights=False) as (
                fnet,
                diffopt,
            ):
                for _ in range(inner_steps):
                    spt_loss = F.cross_entropy(fnet(x_spt[i]), y_spt[i])
                    diffopt.step(spt_loss)
                qry_logits = fnet(x_qry[i])
                qry_loss = F.cross_entropy(qry_logits, y_qry[i])
                (qry_loss / task_num).backward()
            losses.append(qry_loss.item())
            hits = qry_logits.argmax(1) == y_qry[i]
            accuracies.append(hits.float().mean().item())
        meta_opt.step()
        log.append((sum(losses) / task_num, sum(accuracies) / task_num))
    return log
