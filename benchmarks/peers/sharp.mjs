// sharp in a warm process: one line of JSON in, both sizes made, one line out. Run by sharp.py in a directory where
// sharp is installed.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { join } from "node:path";

const sharp = createRequire(join(process.cwd(), "package.json"))("sharp");
sharp.cache(false); // every round reads the file anew, as it would for another upload

console.log(JSON.stringify({ sharp: sharp.versions.sharp ?? "unknown", vips: sharp.versions.vips }));
for await (const line of createInterface({ input: process.stdin })) {
  const { source, outputs } = JSON.parse(line);
  // Both at once: sharp decodes for each with shrink-on-load, on threads of its own.
  await Promise.all(
    outputs.map(({ path, side }) =>
      sharp(source)
        .autoOrient()
        .resize({ width: side, height: side, fit: "inside", withoutEnlargement: true })
        .jpeg({ quality: 80, progressive: true })
        .toFile(path),
    ),
  );
  console.log("{}");
}
