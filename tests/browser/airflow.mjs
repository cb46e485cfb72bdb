// Airflow's pages as their users see and touch them: node airflow.mjs CHROMIUM.
// A line of standard input is a thing to do as JSON, {"do": NAME, ...}; each is answered by a line: {"answer": ...} or {"error": TEXT}.
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const browser = await chromium.launch({
  executablePath: process.argv[2],
  // Chromium refuses its sandbox to root; everything it opens is the stack of these tests.
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const context = await browser.newContext({
  viewport: { width: 1400, height: 900 },
  locale: 'en-GB',
  timezoneId: 'UTC',
  permissions: ['clipboard-read', 'clipboard-write'],
});
const page = await context.newPage();
// Graphs are drawn without a graphics card.
page.setDefaultTimeout(120_000);
const dialog = page.getByRole('dialog');
const button = dialog.getByRole('button', { name: 'Trigger', exact: true });

// Nothing of a page comes a moment later, and nothing moves any more.
async function settle() {
  await page.waitForLoadState('networkidle');
  let before;
  for (let now = ''; now !== before; now = await page.locator('body').evaluate((body) => (
    JSON.stringify([...body.querySelectorAll('.react-flow__viewport, [role=dialog]')].map((item) => (
      [item.style.transform, item.getBoundingClientRect()]
    )))
  ))) {
    before = now;
    await page.waitForTimeout(400);
  }
}

const todo = {
  async login({ url, user, password }) {
    await context.route((wanted) => wanted.origin !== new URL(url).origin, (route) => route.abort());
    await page.goto(`${url}/dags`);
    await page.locator('input[name=username]').fill(user);
    await page.locator('input[name=password]').fill(password);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.waitForURL(`${url}/dags`);
  },

  // One of the views that a DAG's and a run's page has at its left: grid, graph, gantt. The texts of the graph's nodes, or the page's.
  async open({ url, view, until }) {
    await page.goto(url);
    if (view) await page.getByRole('button', { name: new RegExp(`^Show ${view}`, 'i') }).click();
    if (view === 'graph') await page.locator('.react-flow__node').first().waitFor();
    if (until) await page.getByText(until).first().waitFor();
    await settle();
    if (view !== 'graph') return page.locator('body').innerText();
    return page.locator('.react-flow__node').allInnerTexts();
  },

  // The squares of a run in the grid: [task, what the pointer is told when it stops there].
  async grid({ run }) {
    const squares = page.locator(`[id^="grid-${run}-"]`);
    await squares.first().waitFor();
    const told = [];
    for (const square of await squares.all()) {
      await square.hover();
      const tip = page.getByRole('tooltip');
      await tip.waitFor();
      told.push([(await square.getAttribute('id')).slice(`grid-${run}-`.length), await tip.innerText()]);
      await page.mouse.move(0, 0);
      await tip.waitFor({ state: 'hidden' });
    }
    return told;
  },

  async form({ url }) {
    await page.goto(url);
    await page.getByRole('button', { name: 'Trigger Dag' }).click();
    await dialog.locator('.monaco-editor').first().waitFor();
    await settle();
    return dialog.innerText();
  },

  // Into the form's only editor: as a whole from the clipboard. Whether the form would be sent, and what it says.
  async paste({ text }) {
    await page.evaluate((copied) => navigator.clipboard.writeText(copied), text);
    await dialog.locator('.monaco-editor').first().click();
    await page.keyboard.press('Control+A');
    await page.keyboard.press('Control+V');
    await settle();
    return { ready: await button.isEnabled(), text: await dialog.innerText() };
  },

  // The path of the run that has been made, or what the form says instead.
  async press() {
    const started = (answer) => answer.request().method() === 'POST' && answer.url().endsWith('/dagRuns');
    const [answer] = await Promise.all([page.waitForResponse(started), button.click()]);
    if (!answer.ok()) {
      const refusal = dialog.getByText(`${answer.status()} ${answer.statusText()}`);
      await refusal.waitFor();
      return { refused: await refusal.locator('..').innerText() };
    }
    await page.waitForURL(/\/runs\//);
    return { run: decodeURIComponent(new URL(page.url()).pathname) };
  },

  async shot({ path }) {
    await settle();
    await page.screenshot({ path });
  },
};

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...how } = JSON.parse(line);
    let told;
    try {
      told = { answer: (await todo[name](how)) ?? null };
    } catch (error) {
      told = { error: `${error.message}\n${page.url()}\n${await page.locator('body').innerText().catch(() => '')}` };
    }
    console.log(JSON.stringify(told));
  }
} finally {
  await browser.close();
}
