// Makes src/reports.ts from the schemas of docs/reference/json.
//
//   node scripts/types.mjs           writes the file
//   node scripts/types.mjs --check   fails where the file is not what the schemas say

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const SCHEMAS = new URL("../../../docs/reference/json/", import.meta.url);
const TARGET = new URL("../src/reports.ts", import.meta.url);
const WIDTH = 118;

const HEAD = "// Made by `npm run types` from the schemas in docs/reference/json.\n";

/** Types that are not named after their file. */
const NAMES = { copy: "CopyRunReport", error: "ErrorDocument", events: "DbkeepEvent" };

const pascal = (name) => name.replace(/(^|-)(\w)/g, (_, __, letter) => letter.toUpperCase());

/** Returns the name of the type of a whole document: one that has several shapes is called a document. */
function rootName(file, schema) {
  return NAMES[file] ?? pascal(file) + (schema.properties ? "Report" : "Document");
}

/** Returns a comment of one line, or of several where it is long. */
function comment(text, indent) {
  if (!text) return "";
  const one = `${indent}/** ${text} */\n`;
  if (one.length <= WIDTH) return one;
  const lines = [`${indent} *`];
  for (const word of text.split(" ")) {
    if (`${lines.at(-1)} ${word}`.length > WIDTH) lines.push(`${indent} *`);
    lines[lines.length - 1] += ` ${word}`;
  }
  return `${indent}/**\n${lines.join("\n")}\n${indent} */\n`;
}

const WORDS = { integer: "number", number: "number", string: "string", boolean: "boolean", null: "null" };

/** Returns the type of a schema, as it stands behind a colon. */
function typeOf(schema, indent = "") {
  if (schema === true || Object.keys(schema).every((key) => key === "description")) return "unknown";
  if (schema.$ref) return schema.$ref.replace("#/$defs/", "");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices && !schema.properties) return union(choices.map((choice) => typeOf(choice, indent)));
  if (Array.isArray(schema.type)) return union(schema.type.map((type) => typeOf({ ...schema, type }, indent)));
  if (schema.type === "array") return arrayOf(schema, indent);
  if (schema.type === "object") return objectOf(schema, indent);
  if (WORDS[schema.type]) return WORDS[schema.type];
  throw new Error(`no type for ${JSON.stringify(schema)}`);
}

const union = (types) => [...new Set(types)].join(" | ");

function arrayOf(schema, indent) {
  if (schema.prefixItems) return `[${schema.prefixItems.map((item) => typeOf(item, indent)).join(", ")}]`;
  const item = typeOf(schema.items ?? true, indent);
  return item.includes(" ") ? `(${item})[]` : `${item}[]`;
}

function objectOf(schema, indent) {
  if (!schema.properties) return `{ [key: string]: ${typeOf(schema.additionalProperties ?? true, indent)} }`;
  return `{\n${fieldsOf(schema, `${indent}  `)}${indent}}`;
}

function fieldsOf(schema, indent) {
  return Object.entries(schema.properties)
    .map(([key, field]) => {
      const name = /^[A-Za-z_$][\w$]*$/.test(key) ? key : JSON.stringify(key);
      const absent = schema.required?.includes(key) ? "" : "?";
      return `${comment(field.description, indent)}${indent}${name}${absent}: ${typeOf(field, indent)};\n`;
    })
    .join("");
}

/** Returns the declaration of a named type. */
function declare(name, schema) {
  const plain = schema.type === "object" && schema.properties && !schema.anyOf && !schema.oneOf;
  return plain
    ? `export interface ${name} {\n${fieldsOf(schema, "  ")}}\n`
    : broken(`export type ${name} = ${typeOf(schema)};\n`);
}

/** Breaks a long union of words. */
function broken(line) {
  return line.length <= WIDTH ? line : line.replace(" = ", " =\n  | ").replaceAll('" | "', '"\n  | "');
}

function make() {
  const declared = new Map();
  const add = (name, schema, description) => {
    const body = declare(name, schema);
    const known = declared.get(name);
    if (known && known.body !== body) throw new Error(`two types are called ${name}`);
    if (!known) declared.set(name, { body, description });
  };
  const commands = [];
  for (const file of readdirSync(SCHEMAS).sort()) {
    const base = file.replace(/\.json$/, "");
    const schema = JSON.parse(readFileSync(new URL(file, SCHEMAS), "utf8"));
    const name = rootName(base, schema);
    add(name, schema, `${schema.title}. ${schema.description}`);
    for (const [inner, definition] of Object.entries(schema.$defs ?? {})) {
      add(inner, definition, definition.description);
    }
    if (base !== "error" && base !== "events") commands.push([base.replace(/^(key|config)-/, "$1 "), name]);
  }
  const types = [...declared].sort(([one], [other]) => (one < other ? -1 : 1));
  const reports = commands.map(([command, name]) => `  ${JSON.stringify(command)}: ${name};\n`).join("");
  return (
    HEAD +
    types.map(([, { body, description }]) => `\n${comment(description, "")}${body}`).join("") +
    `\n/** What each command prints with --json. */\nexport interface Reports {\n${reports}}\n`
  );
}

const made = make();
if (process.argv.includes("--check")) {
  if (readFileSync(TARGET, "utf8") !== made) {
    console.error(`${fileURLToPath(TARGET)} is not what the schemas say: run \`npm run types\``);
    process.exit(1);
  }
} else {
  writeFileSync(TARGET, made);
}
