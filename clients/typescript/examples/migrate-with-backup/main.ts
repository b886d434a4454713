// node main.js: adds embeddings to the two databases of a project, or leaves them as they are.

import { execFileSync } from "node:child_process";
import { migrateWithBackup } from "./migrate-with-backup.js";

/** Whatever migrates your databases; here the stock tool. */
function sql(database: string, statements: string): void {
  execFileSync("sqlite3", ["-bail", database, statements], { stdio: ["ignore", "ignore", "pipe"] });
}

migrateWithBackup({
  name: "add-embeddings",
  databases: ["agentdb.db", ".agentic-qe/memory.db"],
  steps: [
    {
      name: "a column for embeddings",
      run: () => sql("agentdb.db", "ALTER TABLE episodes ADD COLUMN embedding BLOB"),
    },
    {
      name: "patterns have a kind",
      run: () =>
        sql(
          ".agentic-qe/memory.db",
          `BEGIN; ALTER TABLE patterns ADD COLUMN kind TEXT NOT NULL DEFAULT 'ui';
           INSERT INTO patterns (id, confidence, kind) VALUES ('retry', 0.5, 'network'); COMMIT;`,
        ),
    },
  ],
}).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
