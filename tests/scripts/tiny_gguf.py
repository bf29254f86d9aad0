#!/usr/bin/env python3
"""Writes a language model of half a megabyte that a real llama-server loads: `tiny_gguf.py OUT.gguf [--seed N]`.

A llama of two layers with random weights. Its vocabulary is the 256 bytes, a few merges and ChatML's marks; its chat
template is ChatML with tools in `<tool_call>` tags. It says gibberish, the same for the same seed and prompt, but
gibberish of the right shape: words of letters and spaces that end soon, JSON strings that close, and tool calls in many
turns in which tools are offered (in all of them when they are required, for then a grammar forces them).

How random weights get that shape: dimension 0 of the residual stream holds a constant, which nothing writes to, so
column 0 of the output matrix is a bias for each token. The next dimensions each tell one thing about the last token, and
what they make likelier or less is in FOLLOWS.

Needs the packages gguf and numpy; downloads nothing.
"""
import argparse
from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, KV_HEADS, INNER, CONTEXT = 64, 2, 4, 2, 128, 16384
HEAD_WIDTH = WIDTH // HEADS
CONSTANT = 4.0  # what dimension 0 holds for every token
SWAY = 0.7  # how strongly the prompt, through attention and feed-forward, moves the next token

MERGES = ["t h", "Ġ t", "i n", "e r", "a n", "Ġt h", "th e", "Ġ a", "o n"]

# Logits before the prompt has its say. What is not named is as good as impossible.
IMPOSSIBLE = -8.0
LIKELY = (
    dict.fromkeys("etaoinshrdlucmfwypvbgk", 2.0)
    | dict.fromkeys("0123456789", 0.5)
    | {" ": 2.6, "\n": -2.0, ".": 0.5, '"': 3.0, "}": 1.0, "]": 1.0, ",": 0.0, ":": 1.0, "{": 0.0, "[": 0.0}
)
LIKELY_MERGE, LIKELY_END, LIKELY_CALL = 2.0, 2.5, 2.8

# After any of these tokens, the logits of those are so much higher: calls close after their object and seldom come by the
# dozen, and numbers are short.
DIGITS = "0123456789"
FOLLOWS = [
    (["}"], {"</tool_call>": 12.0}),
    (["</tool_call>"], {"<|im_end|>": 3.0}),
    ([*DIGITS], dict.fromkeys(DIGITS, -3.0) | {"e": -10.0, ".": -5.0}),
]
RESERVED = 1 + len(FOLLOWS)  # dimensions that the layers do not write to

TEMPLATE = r"""
{%- set has_system = messages[0].role == 'system' %}
{%- if tools %}
{{- '<|im_start|>system\n' + (messages[0].content if has_system else 'You are a helpful assistant.') }}
{{- '\n\n# Tools\n\nYou may call one or more functions. Their signatures are within <tools></tools> tags:\n<tools>' }}
{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
{{- '\n</tools>\n\nFor each call, return a JSON object with its name and arguments within <tool_call></tool_call> tags:\n' }}
{{- '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif has_system %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments if call.arguments is string else call.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""


def byte_names() -> list[str]:
    """GPT-2's printable name of each byte: itself where it prints, else a letter from U+0100 on, in order."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


class Vocabulary:
    def __init__(self) -> None:
        kinds = gguf.TokenType
        self.texts = byte_names() + [merge.replace(" ", "") for merge in MERGES]
        self.kinds = [kinds.NORMAL] * len(self.texts)
        self.end_of_text = self.add("<|endoftext|>", kinds.CONTROL)
        self.add("<|im_start|>", kinds.CONTROL)
        self.end_of_turn = self.add("<|im_end|>", kinds.CONTROL)
        # One token opens a call. It is longer than the words llama-server's lazy grammar waits for, since a token that
        # equals them is refused ("should be marked as preserved token").
        self.call = self.add('<tool_call>\n{"name": "', kinds.USER_DEFINED)
        self.call_end = self.add("</tool_call>", kinds.USER_DEFINED)
        while len(self.texts) % 32:
            self.add(f"<|unused{len(self.texts)}|>", kinds.UNUSED)

    def add(self, text: str, kind: gguf.TokenType) -> int:
        self.texts.append(text)
        self.kinds.append(kind)
        return len(self.texts) - 1

    def bias(self) -> np.ndarray:
        bias = np.full(len(self.texts), IMPOSSIBLE, dtype=np.float32)
        for character, logit in LIKELY.items():
            bias[ord(character)] = logit
        bias[256 : 256 + len(MERGES)] = LIKELY_MERGE
        bias[self.end_of_turn] = LIKELY_END
        bias[self.call] = LIKELY_CALL
        return bias


def tensors(vocabulary: Vocabulary, seed: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)

    def random(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (source.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    def into_residual(columns: int) -> np.ndarray:
        matrix = random(WIDTH, columns, SWAY)
        matrix[:RESERVED] = 0.0
        return matrix

    size = len(vocabulary.texts)
    embedding = random(size, WIDTH, scale=8.0)
    embedding[:, :RESERVED] = 0.0
    embedding[:, 0] = CONSTANT

    # The last norm divides by about this; undone here, so that the biases come out as they are written above.
    norm = np.sqrt((CONSTANT**2 + (WIDTH - 1) * (1.0 + 0.6 * LAYERS * SWAY**2)) / WIDTH)
    output = random(size, WIDTH)
    output[[vocabulary.end_of_turn, vocabulary.call, vocabulary.call_end]] = 0.0
    output[:, :RESERVED] = 0.0
    output[:, 0] = vocabulary.bias() * norm / CONSTANT
    for dimension, (last_tokens, changes) in enumerate(FOLLOWS, start=1):
        for token in last_tokens:
            embedding[vocabulary.texts.index(token), dimension] = CONSTANT
        for token, change in changes.items():
            output[vocabulary.texts.index(token), dimension] = change * norm / CONSTANT

    ones = np.ones(WIDTH, dtype=np.float32)
    all_tensors = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": output}
    for layer in range(LAYERS):
        parts = {
            "attn_norm": ones,
            "attn_q": random(WIDTH, WIDTH),
            "attn_k": random(KV_HEADS * HEAD_WIDTH, WIDTH),
            "attn_v": random(KV_HEADS * HEAD_WIDTH, WIDTH),
            "attn_output": into_residual(WIDTH),
            "ffn_norm": ones,
            "ffn_gate": random(INNER, WIDTH),
            "ffn_up": random(INNER, WIDTH),
            "ffn_down": into_residual(INNER),
        }
        all_tensors |= {f"blk.{layer}.{name}.weight": matrix for name, matrix in parts.items()}
    return all_tensors


def write(path: Path, seed: int) -> None:
    vocabulary = Vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary.texts))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.texts)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(vocabulary.end_of_text)
    writer.add_eos_token_id(vocabulary.end_of_turn)
    writer.add_pad_token_id(vocabulary.end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE.lstrip("\n"))
    for name, tensor in tensors(vocabulary, seed).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path}: {len(vocabulary.texts)} tokens, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=4, help="4 calls one to three tools and always well-formed")
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)
