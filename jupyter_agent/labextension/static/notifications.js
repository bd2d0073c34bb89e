// @ts-check
/* Notifications of the browser, for a user who looks at another page: off until they ask for them. */

import { KEY } from './messages.js';

const SETTING = `${KEY}:notify`;
const LONG_MS = 10_000; // of a run whose end is worth a notification

/** Whether this browser may be asked: only on a page that came by HTTPS, or from this machine. */
export const canNotify = () => 'Notification' in window && Notification.permission !== 'denied';

/** Whether the user has asked for notifications, and the browser allows them. */
export function isOn() {
  try {
    return canNotify() && Notification.permission === 'granted' && localStorage.getItem(SETTING) === 'on';
  } catch {
    return false; // a forbidden storage
  }
}

/** Turn notifications on, which the browser asks the user about, or off. */
export async function toggle() {
  const on = !isOn() && (await Notification.requestPermission()) === 'granted';
  try {
    localStorage.setItem(SETTING, on ? 'on' : 'off');
  } catch {
    // a full or forbidden storage: they stay off
  }
}

/** Notify the user, if they have asked for it and look at another page.
 * @param {string} title
 * @param {string} body
 * @param {string} tag Of the run: a later notification takes the place of an earlier one. */
function notify(title, body, tag) {
  if (document.hidden && isOn()) {
    const shown = new Notification(title, { body, tag: `${KEY}:${tag}` });
    shown.onclick = () => {
      window.focus();
      shown.close();
    };
  }
}

/** A run has ended.
 * @param {string} run
 * @param {string} says How it ended.
 * @param {number} took Milliseconds. */
export function notifyOfEnd(run, says, took) {
  if (took >= LONG_MS) {
    notify('The agent has ended its run', says, run);
  }
}

/** A run waits for the user.
 * @param {string} run */
export function notifyOfQuestion(run) {
  notify('The agent waits for you', 'It goes on when you have answered its question', run);
}

/** Draw a bell. */
export function bell() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', 'M3 12h10l-1.2-2V7a3.8 3.8 0 0 0-7.6 0v3zM6.5 14h3M8 3.2V1.8');
  svg.append(path);
  return svg;
}
