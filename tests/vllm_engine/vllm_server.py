"""What clients see of a running server of vLLM."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

TOKENS = 16


class Server:
    """A server, asked over HTTP."""

    def __init__(self, url: str, registry: Path) -> None:
        self.registry = registry
        self.http = httpx.Client(base_url=url, timeout=600)

    def post(self, model: str, prompt: str, tokens: int = TOKENS) -> httpx.Response:
        """Ask for a greedy answer."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}
        return self.http.post("/v1/chat/completions", json=body)

    def ask(self, model: str, prompt: str, tokens: int = TOKENS) -> str:
        """Return a greedy answer."""
        response = self.post(model, prompt, tokens)
        assert response.status_code == 200, response.text
        answer: str = response.json()["choices"][0]["message"]["content"]
        return answer

    def ask_together(self, models: Sequence[str], prompt: str) -> list[str]:
        """Return the greedy answers of models that are asked at once."""
        with ThreadPoolExecutor(len(models)) as pool:
            return list(pool.map(lambda each: self.ask(each, prompt), models))

    def set_preferences(self, preferences: dict[str, Any]) -> httpx.Response:
        """Set the dials that stand for everyone."""
        return self.http.put("/v1/preferences", json={"preferences": preferences})

    def models(self) -> list[str]:
        """Return the names of all models and settings that vLLM knows now."""
        return [each["id"] for each in self.http.get("/v1/models").json()["data"]]
