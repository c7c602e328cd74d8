// /openapi.json, to be read.

import { button, element, made } from "./parts.js";
import { stored } from "./server.js";

const METHODS = ["get", "post"];
let described;
let facts; // what the examples need: the server's address, a name, a class, and whether it wants a token

show();

async function show() {
  try {
    const [response, found] = await Promise.all([fetch("openapi.json"), factsOf()]);
    [described, facts] = [await response.json(), found];
  } catch {
    element("about").textContent = "The server does not answer. Is it still running?";
    return;
  }
  element("about").replaceChildren(...text(described.info.description));
  element("errors").append(fields(described.components.schemas.Error));
  element("token").hidden = !facts.isClosed;
  for (const tag of described.tags) {
    const own = operations().filter((each) => each.operation.tags[0] === tag.name);
    const links = own.map((each) => made("li", "", linkTo(each)));
    element("contents").append(made("div", "", made("h2", "", tag.name), made("ul", "", ...links)));
    element("paths").append(made("h2", "", tag.name), made("p", "quiet", ...text(tag.description)), ...own.map(sectionOf));
  }
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

async function factsOf() {
  const token = stored();
  let response = await fetch("info");
  const isClosed = response.status === 401;
  if (isClosed && token) response = await fetch("info", { headers: { authorization: `Bearer ${token}` } });
  const { name = "MODEL", classes = ["CLASS"] } = response.ok ? await response.json() : {};
  return { address: new URL(".", document.baseURI).href.replace(/\/$/, ""), name, label: classes[0], isClosed };
}

function operations() {
  return Object.entries(described.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })),
  );
}

const idOf = ({ path, method }) => `${method}${path}`;
const nameOf = ({ path, method }) => [made("span", `method ${method}`, method.toUpperCase()), " ", made("code", "path", path)];

function linkTo(each) {
  const link = made("a", "", ...nameOf(each));
  link.href = `#${encodeURIComponent(idOf(each))}`;
  return link;
}

function sectionOf(each) {
  const { operation } = each;
  const section = made("section", "operation", made("h3", "", ...nameOf(each)), made("p", "summary", operation.summary));
  section.id = idOf(each);
  section.setAttribute("aria-label", `${each.method.toUpperCase()} ${each.path}`);
  if (operation.description) section.append(made("p", "", ...text(operation.description)));
  for (const sample of operation["x-codeSamples"]) section.append(...sample.source.split("\n\n").map((source) => code(exampleOf(source, operation))));
  if (operation.parameters) {
    const rows = operation.parameters.map((one) => [made("code", "", one.name), kindOf(one), text(one.description)]);
    section.append(table("Parameters", ["name", "what it is", ""], rows));
  }
  if (operation.requestBody) {
    const { content, description } = operation.requestBody;
    const kinds = Object.entries(content).map(([type, { schema }]) => [made("code", "", type), fields(schema)]);
    section.append(table("Body", ["type", "content"], kinds), made("p", "quiet", ...text(description)));
  }
  const answers = Object.entries(operation.responses).map(([status, given]) => [made("code", "", status), answerOf(given)]);
  section.append(table("Answers", ["status", "meaning"], answers));
  return section;
}

/** Where a parameter stands, and what it may be. */
function kindOf({ in: place, required, schema }) {
  const { type, minimum, maximum, default: usual } = schema;
  const parts = [`${type}, in the ${place}`];
  if (minimum !== undefined) parts.push(maximum === undefined ? `${minimum} or more` : `${minimum} to ${maximum}`);
  if (usual !== undefined) parts.push(`otherwise ${usual}`);
  if (required && place !== "path") parts.push("needed");
  return parts.join("; ");
}

function answerOf(given) {
  if (given.$ref) return text(found(given).description); // an error, all of which are alike
  const { description, headers = {}, content = {} } = given;
  const parts = [made("p", "", ...text(description))];
  for (const [name, header] of Object.entries(headers)) {
    parts.push(made("p", "quiet", "Header ", made("code", "", name), ...(header.description ? [": ", ...text(header.description)] : [])));
  }
  for (const [type, { schema }] of Object.entries(content)) parts.push(made("div", "", made("code", "", type), " ", fields(schema)));
  return parts;
}

/** The fields of an object, and of what is in it. */
function fields(schema) {
  const given = found(schema);
  if (given.oneOf) return made("div", "either", ...given.oneOf.flatMap((each, i) => (i ? [made("p", "quiet", "or"), fields(each)] : [fields(each)])));
  const parts = rows(given);
  if (!parts.length) return made("span", "quiet", given.description ?? simple(given));
  return made("details", "", made("summary", "", Object.keys(given.properties).join(", ")), made("ul", "fields", ...parts));
}

function rows(schema) {
  return Object.entries(schema.properties ?? {}).map(([name, part]) => {
    const own = found(part);
    const inner = found(own.items ?? own);
    const choices = inner.oneOf?.map(found) ?? [inner];
    const row = made("li", "", made("code", "", name), " ", made("span", "quiet", simple(own)), ...(own.description ? [" ", ...text(own.description)] : []));
    for (const choice of choices) {
      const below = rows(choice);
      if (below.length) row.append(made("ul", "fields", ...below));
    }
    return row;
  });
}

function simple({ type, format, items, enum: values, const: value, oneOf }) {
  if (value !== undefined) return String(value);
  if (values) return values.join(" | ");
  if (oneOf) return "either";
  if (items) return `list of ${simple(found(items))}`;
  if (format === "binary") return "bytes";
  return [type ?? "any value"].flat().join(" or ");
}

/** What a `$ref` refers to. */
function found(schema) {
  return schema.$ref ? schema.$ref.slice(2).split("/").reduce((whole, key) => whole[key], described) : schema;
}

/** The example as it works for this server. */
function exampleOf(source, { security }) {
  const quoted = (name) => encodeURIComponent(name).replaceAll("'", "%27");
  const needsToken = facts.isClosed && security?.length !== 0;
  return source
    .replaceAll("http://localhost:8000", facts.address)
    .replaceAll("MODEL", quoted(facts.name))
    .replaceAll("CLASS", quoted(facts.label))
    .replaceAll("curl ", needsToken ? 'curl -H "Authorization: Bearer $EFFTUNE_TOKEN" ' : "curl ");
}

function code(source) {
  const lines = made("pre", "", made("code", "", source));
  lines.tabIndex = 0; // so that the keyboard scrolls it
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(source);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(lines); // where a page may not use the clipboard
      copy.textContent = "Selected";
    }
  });
  return made("div", "example", lines, copy);
}

function table(title, names, given) {
  const head = made("thead", "", made("tr", "", ...names.map((each) => made("th", "", each))));
  head.querySelectorAll("th").forEach((each) => (each.scope = "col"));
  const body = given.map((row) => made("tr", "", ...row.map((each) => made("td", "", ...[each].flat()))));
  return made("table", "", made("caption", "", title), head, made("tbody", "", ...body));
}

/** Text in which some is code. */
function text(description = "") {
  return description.split("`").map((part, i) => (i % 2 ? made("code", "", part) : part));
}
