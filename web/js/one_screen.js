// One screen: the pack's nodes show what one decides each time; the rest stands behind one "advanced" choice.
//
// The schema alone does this in the Vue renderer, which hides what is marked `advanced` and has a button for it. The
// classic canvas knows the choice (`node.showAdvanced`, saved with the node) but does not read the schema's mark, leaves a
// gap for each hidden widget and offers the choice in the context menu only. So here the mark is handed on, the gaps are
// closed and a button is added. Beside that: labels for people on methods and attacks, and presets, which fill in settings.
// What is filled in comes from the schema (`labels`, `settings`, `concepts` of the inputs): Python holds the only copy.
//
// Without this file every widget is shown and no preset fills in anything; what runs is the same.

import { app } from "../../../scripts/app.js";

const CUSTOM = "custom"; // the preset that fills in nothing
const BUTTON = "advanced";
const AWAY = -100000;
const ROW = window.LiteGraph.NODE_WIDGET_HEIGHT + 4; // of the classic canvas

/** Call `then` after what `object[name]` does today, with the same `this` and arguments. */
function after(object, name, then) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    then.apply(this, args);
    return result;
  };
}

const named = (node, name) => node.widgets?.find((widget) => widget.name === name);

const isLinked = (node, widget) => node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);

/** Is it the choice of what happens to a seed after a run? The Vue renderer draws it inside the seed. */
const goesWithAnother = (node, widget) => node.widgets.some((other) => other.linkedWidgets?.includes(widget));

const hasAdvanced = (node) => node.widgets?.some((widget) => widget.options?.advanced);

/** Hand the schema's mark on to the classic canvas. A linked widget is shown, so that its link has an end. */
function markAdvanced(node) {
  if (!hasAdvanced(node)) return;
  for (const widget of node.widgets) {
    if (widget.options?.advanced || goesWithAnother(node, widget)) widget.advanced = !isLinked(node, widget);
  }
  const button = named(node, BUTTON);
  if (button) button.label = node.showAdvanced ? "▴ hide advanced" : "▾ show advanced";
}

/** The height of the rows that the choice hides. */
function hiddenHeight(node) {
  const chosen = node.showAdvanced;
  const [few, all] = [false, true].map((shown) => {
    node.showAdvanced = shown;
    return node.computeSize()[1];
  });
  node.showAdvanced = chosen;
  return all - few;
}

/** As high as `height` says, and never lower than what is shown. */
function fit(node, width, height) {
  node.setSize([width, Math.max(height, node.computeSize()[1])]);
}

function addButton(node) {
  if (!hasAdvanced(node)) return;
  // canvasOnly: the Vue renderer has a button of its own. Not serialized: saved values are read by position.
  const options = { serialize: false, canvasOnly: true };
  const button = node.addWidget("button", BUTTON, null, () => node.toggleAdvanced(), options);
  button.serialize = false;
}

/** What people read in place of a saved value: `ap` stays `ap` in files. */
function addLabels(node, inputs) {
  for (const [name, spec] of Object.entries(inputs)) {
    const labels = spec[1]?.labels;
    const widget = labels && named(node, name);
    if (widget) widget.options.getOptionLabel = (value) => labels[value] ?? String(value ?? "");
  }
}

/** A file from before a setting became a method of its own, as it would be saved now: values lie by position, so that one too
 *  many shifts all behind it. `moved` says of the settings that are gone which value chooses which method. */
function withMoved(saved, { moved = {}, options = [] }) {
  const names = (saved.inputs ?? []).filter((input) => input.widget).map((input) => input.widget.name);
  const values = saved.widgets_values ?? [];
  const was = Object.fromEntries(names.map((name, place) => [name, values[place]]));
  const gone = Object.entries(moved[was.method] ?? {}).find(([setting]) => `method.${setting}` in was);
  if (!gone) return saved;

  const [setting, becomes] = gone;
  const method = becomes[was[`method.${setting}`]] ?? was.method;
  const { required, optional } = options.find((option) => option.key === method).inputs;
  const settings = Object.entries({ ...required, ...optional }).map(([name, spec]) => [`method.${name}`, spec[1].default]);
  const nested = (name) => name.startsWith("method.");
  const known = new Set(settings.map(([name]) => name));
  const at = names.indexOf("method");
  const before = names.filter(nested);
  const kept = [method, ...settings.map(([name, otherwise]) => was[name] ?? otherwise)];
  const [width, height] = saved.size;
  return {
    ...saved,
    inputs: saved.inputs.filter(({ name }) => !nested(name) || known.has(name)),
    widgets_values: [...values.slice(0, at), ...kept, ...values.slice(at + 1 + before.length)],
    size: [width, height - (saved.showAdvanced === false ? 0 : ROW * (before.length - settings.length))],
  };
}

/** The presets of a node with the widgets `method` and `preset`. */
class Presets {
  constructor(node, { settings, concepts }) {
    Object.assign(this, { node, settings, concepts, watched: new WeakSet() });
    this.method = named(node, "method");
    this.preset = named(node, "preset");
    after(this.preset, "callback", () => this.fillIn());
    after(this.method, "callback", () => this.methodChanged());
    this.watch();
  }

  /** Widget and value of each setting that the chosen preset decides. */
  decided() {
    const values = Object.entries(this.settings[this.method.value]?.[this.preset.value] ?? {});
    return values.map(([name, value]) => [named(this.node, `method.${name}`), value]).filter(([widget]) => widget);
  }

  fillIn() {
    for (const [widget, value] of this.decided()) widget.value = value;
    const field = named(this.node, "concepts");
    const text = this.concepts[this.preset.value];
    if (text && field && !isLinked(this.node, field) && !field.value.trim()) field.value = text;
    this.node.setDirtyCanvas(true, true);
  }

  /** A name must not stand over values that are not its own. */
  tellTheTruth() {
    if (this.decided().some(([widget, value]) => widget.value !== value)) this.preset.value = CUSTOM;
  }

  /** The settings are new widgets after each change of the method. */
  watch() {
    for (const widget of this.node.widgets ?? []) {
      if (!widget.name.startsWith("method.") || this.watched.has(widget)) continue;
      this.watched.add(widget);
      after(widget, "callback", () => this.tellTheTruth());
    }
  }

  methodChanged() {
    markAdvanced(this.node);
    this.watch();
    this.fillIn();
    fit(this.node, this.node.size[0], 0);
  }
}

/** An attack's settings are new widgets after each change too, which only need the mark. */
function markAfterChange(node) {
  const attack = named(node, "attack");
  if (!attack || attack.type !== "combo") return;
  after(attack, "callback", () => {
    markAdvanced(node);
    fit(node, node.size[0], 0);
  });
}

app.registerExtension({
  name: "concept_erasure.one_screen",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("Erasure")) return;
    const inputs = { ...nodeData.input?.required, ...nodeData.input?.optional };
    const node = nodeType.prototype;
    const presets = new WeakMap();

    after(node, "onNodeCreated", function () {
      addLabels(this, inputs);
      addButton(this);
      markAdvanced(this);
      markAfterChange(this);
      const fillings = inputs.preset?.[1];
      if (fillings?.settings) presets.set(this, new Presets(this, fillings));
      this.showAdvanced ??= false; // so that a saved node says that it knew the choice
      fit(this, this.size[0], 0);
    });

    const configure = node.configure;
    node.configure = function (saved) {
      return configure.call(this, withMoved(saved, inputs.method?.[1] ?? {}));
    };

    after(node, "onConfigure", function (saved) {
      markAdvanced(this);
      presets.get(this)?.watch();
      presets.get(this)?.tellTheTruth();
      const [width, height] = saved.size ?? [this.size[0], 0];
      // A file from before the choice gives back the rows that are hidden now; its text fields stay as high as they were.
      fit(this, width, saved.showAdvanced === undefined ? height - hiddenHeight(this) : height);
    });

    after(node, "onConnectionsChange", function () {
      markAdvanced(this);
    });

    // Keeps what a user dragged the node higher than its content.
    const toggle = node.toggleAdvanced;
    node.toggleAdvanced = function () {
      const spare = Math.max(0, this.size[1] - this.computeSize()[1]);
      toggle.call(this);
      markAdvanced(this);
      fit(this, this.size[0], this.computeSize()[1] + spare);
    };

    const layout = node.getLayoutWidgets;
    if (!layout) return; // a front end that lays out otherwise
    node.getLayoutWidgets = function () {
      const widgets = layout.call(this);
      if (this.collapsed) return widgets;
      const takesRow = this.isWidgetRowVisible ?? this.isWidgetVisible;
      const shown = widgets.filter((widget) => takesRow.call(this, widget));
      // The input of a hidden widget still lies where the widget does: far away, so that no dropped link finds it.
      for (const widget of widgets) if (!shown.includes(widget)) widget.y = AWAY;
      return shown;
    };
  },
});
