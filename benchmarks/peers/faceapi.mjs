// face-api itself: node faceapi.mjs PACKAGE NET INPUT.f32 SIDE OUTPUT.f32, for pictures of SIDE x SIDE x 3, 0 to 255.
// PACKAGE is the unpacked folder, NET one of faceRecognitionNet, faceExpressionNet and faceLandmark68Net.
// Needs `npm install @tensorflow/tfjs @tensorflow/tfjs-backend-wasm` in the working directory or above PACKAGE.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [folder, name, input, side, output] = process.argv.slice(2);
const faceapi = createRequire(`${process.cwd()}/`)(`${folder}/dist/face-api.node-wasm.js`);
const { tf } = faceapi;
await tf.setBackend('cpu');
const file = { faceRecognitionNet: 'recognition', faceExpressionNet: 'expression', faceLandmark68Net: 'landmark_68' }[name];
const manifest = JSON.parse(readFileSync(`${folder}/model/face_${file}_model-weights_manifest.json`));
const bytes = readFileSync(`${folder}/model/face_${file}_model.bin`);
const specs = manifest.flatMap((group) => group.weights);
const net = faceapi.nets[name];
net.loadFromWeightMap(tf.io.decodeWeights(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), specs));
const content = readFileSync(input);
const pixels = new Float32Array(content.buffer.slice(content.byteOffset, content.byteOffset + content.length));
const pictures = tf.unstack(tf.tensor4d(pixels, [pixels.length / (side * side * 3), +side, +side, 3]));
const found = net.forwardInput(new faceapi.NetInput(pictures));
writeFileSync(output, Buffer.from((await found.data()).buffer));
