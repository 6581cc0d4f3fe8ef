"""The script of the charts: values under the pointer, or under the keys, out of the numbers beside each picture.

All charts over steps move together, so that a glance tells what else happened at a step.
"""

POINTER = r"""
(() => {
  const tip = document.createElement("div");
  tip.className = "tip"; tip.setAttribute("role", "status"); tip.hidden = true;
  document.body.append(tip);
  const number = (v, unit) => {
    if (unit === "%") return +(100 * v).toPrecision(3) + " %";
    if (unit === "B") for (const [s, p] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(v) >= s) return +(v / s).toPrecision(3) + " " + p + "B";
    const text = Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(3));
    return text + (unit ? " " + unit : "");
  };
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };
  const put = (x, y) => {
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + box.height + 24 > innerHeight ? y - box.height - 12 : y + 14) + "px";
  };
  const row = (cls, name, value) => {
    const [line, key, text, bold] = ["div", "i", "span", "b"].map(tag => document.createElement(tag));
    if (cls) { key.className = cls; line.append(key); }
    text.textContent = name; bold.textContent = value; line.append(text, bold);
    return line;
  };
  const draw = (svg, tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) element.setAttribute(k, v);
    svg.append(element); return element;
  };
  const charts = [];
  document.querySelectorAll(".chart").forEach(holder => {
    const data = JSON.parse(holder.querySelector("script").textContent);
    const head = holder.parentElement.querySelector("h3 b"), last = head ? head.textContent : "";
    const front = data.series.filter(s => s.class !== "behind");
    const all = [...new Set(data.series.flatMap(s => s.x))].sort((a, b) => a - b);
    holder.querySelectorAll("svg").forEach(svg => {
      const [x0, x1, y0, y1, width, height, left, right, top, bottom, logX, logY] = JSON.parse(svg.dataset.frame);
      const share = (v, a, b, log) => log ? Math.log(v / a) / (Math.log(b / a) || 1) : (v - a) / ((b - a) || 1);
      const px = x => left + share(x, x0, x1, logX) * (width - left - right);
      const py = y => height - bottom - share(y, y0, y1, logY) * (height - top - bottom);
      const hair = draw(svg, "line", {class: "hair", y1: top, y2: height - bottom, visibility: "hidden"});
      const dots = data.series.map(s => draw(svg, "circle", {class: "dot " + s.class, r: 3.5, visibility: "hidden"}));
      const chart = {
        x: data.x, svg, at: null,
        show(x) {
          const places = data.series.map(s => nearest(s.x, x));
          hair.setAttribute("x1", px(x)); hair.setAttribute("x2", px(x)); hair.setAttribute("visibility", "visible");
          data.series.forEach((s, n) => {
            const value = (s.mean || s.y)[places[n]];
            dots[n].setAttribute("cx", px(s.x[places[n]])); dots[n].setAttribute("cy", py(value));
            dots[n].setAttribute("visibility", x >= s.x[0] && x <= s.x[s.x.length - 1] ? "visible" : "hidden");
          });
          if (head && last && front.length === 1) {
            const s = front[0]; head.textContent = number((s.mean || s.y)[nearest(s.x, x)], data.unit);
          }
        },
        hide() { hair.setAttribute("visibility", "hidden"); dots.forEach(d => d.setAttribute("visibility", "hidden"));
          if (head) head.textContent = last; },
        tell(x) {
          tip.replaceChildren(row("", data.x, x.toLocaleString("en")));
          [...front, ...data.series.filter(s => s.class === "behind")].forEach(s => {
            const place = nearest(s.x, x), value = number(s.y[place], data.unit);
            const at = s.x[place] === x ? "" : " (" + data.x + " " + s.x[place].toLocaleString("en") + ")";
            tip.append(row(s.class, (s.name || "this run") + at, value));
            if (s.mean && s.class !== "behind") tip.append(row("", "running mean", number(s.mean[place], data.unit)));
          });
          const near = (all[all.length - 1] - all[0]) / 80;
          data.marks.filter(m => Math.abs(m[0] - x) <= near).slice(0, 4).forEach(m => tip.append(row("", m[1], "")));
          tip.hidden = false;
        },
      };
      charts.push(chart);
      const beside = other => other === chart || (data.x === "step" && other.x === "step");
      const together = x => charts.filter(beside).forEach(other => other.show(x));
      const leave = () => { tip.hidden = true; chart.at = null; charts.forEach(other => other.hide()); };
      const pick = place => {
        chart.at = Math.max(0, Math.min(all.length - 1, place)); together(all[chart.at]); chart.tell(all[chart.at]);
      };
      svg.addEventListener("pointermove", event => {
        const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * width;
        const part = Math.max(0, Math.min(1, (at - left) / (width - left - right)));
        pick(nearest(all, logX ? x0 * Math.pow(x1 / x0, part) : x0 + part * (x1 - x0)));
        put(event.clientX, event.clientY);
      });
      svg.addEventListener("pointerleave", leave);
      svg.addEventListener("blur", leave);
      svg.addEventListener("keydown", event => {
        const by = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10}[event.key];
        if (event.key === "Escape") return leave();
        if (by === undefined && event.key !== "Home" && event.key !== "End") return;
        event.preventDefault();
        pick(by ? (chart.at ?? (by > 0 ? -1 : all.length)) + by : event.key === "Home" ? 0 : all.length - 1);
        const box = svg.getBoundingClientRect();
        put(box.left + px(all[chart.at]) / width * box.width, box.top + box.height / 2);
      });
    });
  });
  document.querySelectorAll("[data-tip]").forEach(part => {
    part.addEventListener("pointermove", event => {
      tip.replaceChildren(row(part.parentElement.className === "bar" ? part.className : "", part.dataset.tip, ""));
      tip.hidden = false; put(event.clientX, event.clientY);
    });
    part.addEventListener("pointerleave", () => { tip.hidden = true; });
  });
})();
"""
