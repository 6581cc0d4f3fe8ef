"""Style and script of the page of `sclds explore`, beyond what all pages share."""

STYLE = """
.gains{display:grid;gap:12px;margin-top:16px}.gain h4{margin:0 0 10px;font-size:14px;font-weight:500;color:var(--soft)}
.gain td small{margin:0}
.gain h3{font-size:15px;margin-bottom:10px}.gain p{margin:0 0 5px;font-size:14px;color:var(--soft)}
.stack{display:flex;gap:2px;height:26px;margin:0 0 5px}.stack span{min-width:3px;border-radius:3px}
.earlier{background:var(--teal)}.alike{background:var(--grey)}.later{background:var(--amber)}
.counts{list-style:none;margin:0 0 16px;padding:0;display:flex;flex-wrap:wrap;gap:2px 18px;font-size:13.5px;
font-variant-numeric:tabular-nums}.counts li{display:flex;gap:7px;align-items:center}.counts b{font-weight:600}
.counts i{width:11px;height:11px;border-radius:3px}
.example{margin-top:16px;min-width:0}.example>header{display:flex;gap:4px 10px;align-items:baseline;flex-wrap:wrap;
margin-bottom:12px}.example>header b{font-size:17px;overflow-wrap:anywhere}.id{color:var(--faint);font-size:12.5px;
word-break:break-all}
.halves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:22px 34px}
.halves>*{min-width:0}.half h3,.looks h3{color:var(--soft);font-weight:500;margin-bottom:8px}
figure{margin:0;min-width:0}figcaption{color:var(--soft);font-size:12.5px;margin-top:3px}
.seen{display:flex;gap:12px;flex-wrap:wrap;margin-bottom:12px}.strip{display:flex;gap:4px}
.strip img{width:104px;height:104px;border-radius:6px;border:1px solid var(--line);display:block}
.small img,.small .cell{image-rendering:pixelated}.video .strip img{width:80px;height:80px}
.try{border-top:1px solid var(--line);padding:9px 0 11px}.try:last-child{padding-bottom:0}
.what{display:flex;gap:8px;align-items:center;font-size:13.5px;margin:0 0 7px;min-width:0}
.what span{min-width:0;overflow-wrap:anywhere}.what em{color:var(--soft);font-style:normal}
.rank{margin-left:auto;flex:none;font-variant-numeric:tabular-nums;color:var(--soft);white-space:nowrap}
.rank small{color:var(--faint);font-weight:400;margin-left:8px}.rank.first{color:var(--right);font-weight:600}
.what img,.blank{width:34px;height:34px;flex:none;border-radius:5px;border:1px solid var(--line);object-fit:contain;
background:#fff}.blank{background:var(--line)}
.hits{display:flex;gap:6px}.hit{width:58px;height:58px;border-radius:7px;background:#fff;display:grid;
place-items:center;overflow:hidden;border:1px solid var(--line);color:#6b6a63;font-size:11px;text-align:center}
.hit img{max-width:100%;max-height:100%}.hit.right{outline:3px solid var(--right);outline-offset:-2px}
.said{margin:0;padding:0 0 0 22px;font-size:14px;color:var(--soft)}.said li{overflow-wrap:anywhere;padding-left:2px}
.said .right{color:var(--right);font-weight:600}
.masked{margin:0 0 12px;line-height:1.2;font-size:16px;min-height:104px;display:flex;flex-wrap:wrap;gap:8px 6px;
align-content:center}.masked span{display:inline-flex;flex-direction:column;align-items:center}
.masked i{background:var(--ink);color:var(--card);border-radius:4px;padding:0 6px;font-style:normal;font-size:13px}
.masked small{font-size:12px;color:var(--soft);margin-top:2px}
.looks{border-top:1px solid var(--line);margin-top:16px;padding-top:14px}
.look{display:grid;grid-template-columns:max-content 1fr;gap:8px 20px;align-items:start}
.cells{display:flex;gap:2px}.cell{position:relative;display:block;background-size:100% 100%;border-radius:3px;
overflow:hidden;width:60px;height:60px}.cell::before{content:"";position:absolute;inset:0;
background:inherit;filter:grayscale(1) contrast(.55) brightness(1.25)}
.cell img{position:absolute;inset:0;width:100%;height:100%;image-rendering:pixelated}
.large .cell{width:184px;height:184px;border-radius:7px}.large .cells{gap:5px;flex-wrap:wrap}
.video .large .cell{width:150px;height:150px}.video .words .cell{width:46px;height:46px}
.large figcaption{font-size:13.5px;max-width:300px}.large figcaption b{color:var(--ink)}
.words{display:flex;flex-wrap:wrap;gap:8px;min-width:0}
.words button{padding:4px;border:1px solid transparent;display:grid;gap:3px;justify-items:center;color:var(--ink);
border-radius:8px;max-width:100%}.words button[aria-pressed=true]{border-color:var(--blue)}
.words b{font-weight:400;font-size:12.5px;max-width:100%;overflow-wrap:anywhere}.words .all b{color:var(--soft)}
@media(max-width:700px){.look{grid-template-columns:1fr}.masked{min-height:0}}
"""

SCRIPT = """
document.querySelectorAll(".look").forEach(look => {
  const large = look.querySelector(".large"), heats = large.querySelectorAll(".cell img");
  const words = look.querySelectorAll(".words button");
  const show = button => {
    button.querySelectorAll(".cell img").forEach((heat, i) => { heats[i].src = heat.src });
    large.querySelector("figcaption").innerHTML = button.dataset.told;
    words.forEach(other => other.setAttribute("aria-pressed", other === button));
  };
  words.forEach(button => ["pointerenter", "focus", "click"].forEach(
    event => button.addEventListener(event, () => show(button))));
});
"""
