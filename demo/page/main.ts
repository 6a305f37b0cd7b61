/** The demonstration page, served by `npm start`. */
import { startApp } from './app.ts';

startApp();
