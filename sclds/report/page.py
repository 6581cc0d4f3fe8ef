"""What our HTML pages share: colors, type, cards, tables, copy buttons; a page is one file that needs nothing else."""

import base64
from hashlib import sha256
from html import escape
from pathlib import Path

from sclds.config.errors import UserError
from sclds.report.pointer import POINTER
from sclds.run.files import write_atomically

STYLE = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#111110;--soft:#55544f;--faint:#85847c;--line:#e4e3de;
--blue:#2a78d6;--teal:#1a9e72;--amber:#d99100;--violet:#6a56c2;--grey:#b4b3ab;--right:#0a8f2e}
@media(prefers-color-scheme:dark){:root{--page:#141413;--card:#1d1d1b;--ink:#f4f4f0;--soft:#c2c1b7;--faint:#8f8e85;
--line:#33332f;--blue:#4f97ea;--teal:#28b487;--amber:#dca12e;--violet:#9486e0;--grey:#65645d;--right:#3fc25f}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:40px 24px 72px}h1{font-size:30px;line-height:1.2;margin:0 0 6px;
letter-spacing:-.015em}h2{font-size:19px;margin:44px 0 4px;letter-spacing:-.01em}h3{font-size:14px;margin:0;
font-weight:600}p{margin:4px 0 14px;max-width:74ch}.lead,.note{color:var(--soft)}.note{font-size:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px}
.scroll{overflow-x:auto}.warn{border-left:4px solid var(--amber);margin:14px 0;padding:12px 16px 12px 32px;
overflow-wrap:anywhere}.warn li{margin:2px 0}
h1,h2,h3,p,li,dd,figcaption,summary{overflow-wrap:anywhere}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--soft);font-size:13px;text-align:right;padding:0 0 8px 18px;white-space:nowrap}
td{text-align:right;padding:9px 0 9px 18px;border-top:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}td small{color:var(--faint);margin-left:7px}
pre{margin:0;font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap;
word-break:break-word}
.command{display:flex;gap:14px;align-items:flex-start;justify-content:space-between;margin-top:10px}
.command div{color:var(--soft);font-size:13px}button{font:inherit;font-size:13px;color:var(--soft);background:none;
border:1px solid var(--line);border-radius:6px;padding:2px 10px;cursor:pointer}button:hover{color:var(--ink)}
@media(max-width:560px){main{padding:24px 14px 48px}.card{padding:14px}.warn{padding-left:30px}h1{font-size:25px}
.command{flex-wrap:wrap}thead{position:absolute;clip-path:inset(50%)}
tr{display:grid;grid-template-columns:repeat(3,1fr);gap:4px 12px;padding:10px 0;border-top:1px solid var(--line)}
tbody tr:first-child{border-top:0;padding-top:0}td,td:first-child{border:0;padding:0;text-align:left;white-space:normal}
td:first-child{grid-column:1/-1;font-weight:600;overflow-wrap:anywhere}td:empty{display:none}
td[data-label]::before{content:attr(data-label);display:block;color:var(--soft);font-size:12.5px}}
a:focus-visible,button:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:2px solid var(--blue);
outline-offset:2px}
.facts{margin:0;display:grid;gap:8px}.facts div{display:grid;grid-template-columns:minmax(120px,210px) 1fr;gap:2px 16px}
.facts dt{color:var(--soft)}.facts dd{margin:0}.facts+details{margin-top:14px}.facts+.facts{margin-top:18px;
padding-top:14px;border-top:1px solid var(--line)}
@media(max-width:560px){.facts div{grid-template-columns:1fr}}
details summary{cursor:pointer;color:var(--soft)}details pre{margin-top:14px}
"""

SCRIPT = """
document.querySelectorAll("button[data-copy]").forEach(button => button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy" }, 1500);
}));
"""


def _policy(script: str) -> str:
    """Return what a browser is allowed: pictures within the page, and this script alone, whatever else may be in it."""
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def document(title: str, body: str, style: str, script: str = "") -> str:
    """Return a whole page.

    Args:
        title: Of the window, as plain text.
        body: HTML, without scripts of its own: a browser runs none of them.
        style: CSS that only this page needs.
        script: JavaScript that only this page needs.
    """
    whole = f"{SCRIPT}{POINTER}{script}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(whole)}"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}{style}</style></head>'
        f"<body><main>{body}</main><script>{whole}</script></body></html>\n"
    )


def write_page(path: Path, content: str | bytes, remedy: str) -> None:
    """Write a page; an older one is replaced in one go.

    Raises:
        UserError: It cannot be written; the message ends with the remedy.
    """
    try:
        write_atomically(path, content)
    except OSError as fault:
        raise UserError(f"{path} cannot be written ({fault.strerror or fault}): {remedy}") from fault


def webp_uri(content: bytes) -> str:
    """Return WebP bytes as an address that a page carries inside itself."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()
