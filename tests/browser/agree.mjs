// The user's part of a login, in a real browser: node agree.mjs CHROMIUM PAGE CODE USER
import { chromium } from 'playwright-core';

const [executablePath, page_, code, user] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  // Chromium refuses its sandbox to root; everything it opens is the issuer of these tests.
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
try {
  const context = await browser.newContext();
  // The issuer's pages ask for fonts from the internet.
  await context.route((url) => url.hostname !== '127.0.0.1', (route) => route.abort());
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  await page.goto(page_);
  await page.locator('input[name=user_code]').fill(code);
  await page.getByRole('button', { name: 'Continue' }).click();
  // Which pages come is the issuer's matter: who is it, does the code match the device's, what may the client have.
  for (;;) {
    const login = page.locator('input[name=login]');
    const button = page.locator('button[type=submit]').first();
    const done = page.getByText('Sign-in Success');
    await login.or(button).or(done).first().waitFor();
    if (await done.isVisible()) break;
    if (await login.isVisible()) {
      await login.fill(user);
      await page.locator('input[name=password]').fill('any');
    }
    await Promise.all([page.waitForEvent('load'), button.click()]);
  }
  console.log('agreed');
} finally {
  await browser.close();
}
