"""The recipe that `mistudio submit pipeline --example` prints: it runs as it is, on two cores and without a network."""

from __future__ import annotations

import sysconfig

from mistudio_cli.profile.profile_keys import in_toml

_TEXT = """\
# A recipe: steps that become jobs, each of which waits for those that make what it reads.
#
#   mistudio submit pipeline recipe.toml --dry-run        what would be submitted
#   mistudio submit pipeline recipe.toml --set steps=50   with another value of a variable
#
# A step whose artifact is in the store already, made with the same parameters, is not done again.

name = "toy"  # all its jobs are tagged pipeline:toy

[vars]  # what --set may change
text = @TEXT@  # the source text of Python's own library
steps = 300
k = 16

# Each step says its kind and that kind's parameters (mistudio submit KIND --help). It may also say: id (else its kind
# is its id), name (of what it makes), after (ids of steps or of jobs to wait for), priority, tags and gpu.

[[step]]
id = "corpus"
kind = "download"
name = "toy-corpus"
source = "${text}"
pattern = "*.py"
limit_bytes = 4_000_000

[[step]]
id = "model"
kind = "toy-model"
name = "toy-model"
dataset = "${corpus}"  # what the step corpus makes
steps = "${steps}"

[[step]]
kind = "tokenize"
name = "toy-tokens"
dataset = "${corpus}"
model = "${model}"

[[step]]
kind = "train"
name = "toy-sae-k${k}"
model = "toy-model"  # an artifact may also be called by its name
dataset = "${tokenize}"
layer = 1
k = "${k}"
batch = 1024
steps = "${steps}"

[[step]]
kind = "extract"
sae = "${train}"
max_tokens = 200_000
"""


def example() -> str:
    """The recipe as TOML, for this machine."""
    return _TEXT.replace("@TEXT@", in_toml(sysconfig.get_path("stdlib")))
