"""A service with a SQLite database on a volume: commits a number ten times a second, and keeps the database open."""

import sqlite3
import time

database = sqlite3.connect("/volume/numbers.db", isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY, text)")
while True:
    database.execute("INSERT INTO numbers (text) VALUES (hex(randomblob(500)))")
    time.sleep(0.1)
