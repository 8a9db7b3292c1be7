// A graph model in TensorFlow.js itself: node runtime.mjs GRAPH.json WEIGHTS.bin INPUT.f32 SIDE CHANNELS NODE OUTPUT.f32
// INPUT holds pictures of SIDE x SIDE x CHANNELS as float32; the output node's values are written in the same way.
// Needs `npm install @tensorflow/tfjs` in the working directory.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const tf = createRequire(`${process.cwd()}/`)('@tensorflow/tfjs');
const [graph, weights, input, side, channels, node, output] = process.argv.slice(2);
const described = JSON.parse(readFileSync(graph));
const bytes = readFileSync(weights);
const model = await tf.loadGraphModel({
  load: async () => ({
    modelTopology: described.modelTopology,
    weightSpecs: described.weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length),
  }),
});
const content = readFileSync(input);
const pixels = new Float32Array(content.buffer.slice(content.byteOffset, content.byteOffset + content.length));
const found = model.execute(tf.tensor4d(pixels, [pixels.length / (side * side * channels), +side, +side, +channels]), node);
writeFileSync(output, Buffer.from((await found.data()).buffer));
