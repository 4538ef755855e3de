"""Few-shot MAML in torch, with `higher`. Beside it, the same job: `jmeta_maml.py`."""

import higher
import torch
from torch import nn
from torch.nn.functional import cross_entropy


def few_shot_net(ways, width=64, blocks=3):
    """Convolutions of 28x28 images down to one pixel, then a linear head."""
    layers = []
    for block in range(blocks):
        layers += [
            nn.Conv2d(width if block else 1, width, kernel_size=3),
            # the statistics of the batch at hand, in training and after it
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, ways))


def adapted(net, sgd, task, steps):
    """Query loss and accuracy of the weights that some steps on the support give."""
    with higher.innerloop_ctx(net, sgd, copy_initial_weights=False) as (learner, inner):
        images, labels = task.support
        for _ in range(steps):
            inner.step(cross_entropy(learner(images), labels))
        images, labels = task.query
        logits = learner(images)
    accuracy = (logits.argmax(dim=1) == labels).double().mean()
    return cross_entropy(logits, labels), accuracy


def meta_train(net, batches, steps=5):
    """A step of Adam for each batch of tasks; mean query losses and accuracies."""
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    record = []
    for tasks in batches:
        adam.zero_grad()
        means = torch.zeros(2, dtype=torch.float64)
        # a task at a time, so that only its graph is in memory
        for task in tasks:
            loss, accuracy = adapted(net, sgd, task, steps)
            (loss / len(tasks)).backward()
            means += torch.stack([loss.detach().double(), accuracy]) / len(tasks)
        adam.step()
        record.append(means.tolist())
    return record
