"""Writes tiny_bert/: a BERT of random weights with the hidden states that Hugging Face's transformers gives.

Those in the tree were written with torch 2.13.0 and transformers 5.24.0, which the suite itself does not need:

  pip install torch transformers && python make_tiny_bert.py
"""

import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent / "tiny_bert"
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=24,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=10,
    type_vocab_size=2,
    layer_norm_eps=0.05,
)
model = transformers.BertModel(config, add_pooling_layer=False).eval()
with torch.no_grad():
    for parameter in model.parameters():
        # Far from the defaults, under which a forgotten norm or offset would hardly show.
        parameter.copy_(parameter + 0.4 * torch.randn_like(parameter))
tokens = torch.randint(0, 24, (3, 8))
real = torch.arange(8) < torch.tensor([[8], [5], [2]])
with torch.no_grad():
    states = model(tokens, attention_mask=real.long(), output_hidden_states=True).hidden_states
model.save_pretrained(HERE)
np.savez(HERE / "states.npz", tokens=tokens.numpy(), real=real.numpy(), states=np.stack([state.numpy() for state in states]))
