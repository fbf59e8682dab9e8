import { find } from "./dom.js";

export type View = "chat" | "batch" | "settings";
const views: View[] = ["chat", "batch", "settings"];
const tab = (view: View) => find<HTMLButtonElement>(`#tab-${view}`);

/** Shows one view. The address keeps it, so that a reload comes back to it. */
export function show(view: View): void {
  for (const each of views) {
    const chosen = each === view;
    tab(each).setAttribute("aria-selected", String(chosen));
    tab(each).tabIndex = chosen ? 0 : -1;
    find(`#${each}`).hidden = !chosen;
  }
  document.body.dataset.view = view;
  document.dispatchEvent(new Event("view"));
  history.replaceState(null, "", view === "chat" ? location.pathname + location.search : `#${view}`);
}

/** The tab pattern of the ARIA practices: one stop for Tab, arrows between the tabs. */
export function tabs(): void {
  const list = find("#tabs");
  list.hidden = false;
  for (const view of views) tab(view).addEventListener("click", () => show(view));
  list.addEventListener("keydown", (event) => {
    const at = views.findIndex((view) => tab(view) === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: views.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const view = views[(to + views.length) % views.length]!;
    show(view);
    tab(view).focus();
  });
  show(views.find((view) => location.hash === `#${view}`) ?? "chat");
}
