"""The target: an OpenVLA checkpoint, its files and its network."""

import logging

# Where torchao is installed, transformers imports it, asked for or not, and it warns on stderr of
# kernels for other GPUs that it couldn't load and of a call of torch's that will go. Nothing here
# uses the former or can change the latter, and errors should be the only lines there.
logging.getLogger('torchao').setLevel(logging.ERROR)
logging.getLogger('torch.utils._pytree').addFilter(
    lambda record: 'register_constant' not in record.getMessage())
