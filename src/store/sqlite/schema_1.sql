-- Conversations that have a name. `entries` is how many there are in the table of that name.
CREATE TABLE sessions (
  id            INTEGER PRIMARY KEY,
  scope         TEXT    NOT NULL,
  name          TEXT    NOT NULL,
  version       INTEGER NOT NULL,
  head          TEXT    NOT NULL,
  entries       INTEGER NOT NULL,
  messages      INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL,
  updated_at_ms INTEGER NOT NULL,
  UNIQUE (scope, name)
) STRICT;
CREATE INDEX sessions_by_time ON sessions (updated_at_ms);

-- What was said: what the user said, or what the model said with the results of its calls, as a JSON array of messages.
CREATE TABLE entries (
  session  INTEGER NOT NULL,
  position INTEGER NOT NULL,
  body     TEXT    NOT NULL,
  PRIMARY KEY (session, position)
) STRICT, WITHOUT ROWID;

-- Runs. `request` is there as long as it may be needed to go on.
CREATE TABLE runs (
  id            INTEGER PRIMARY KEY,
  run_id        TEXT    NOT NULL UNIQUE,
  scope         TEXT    NOT NULL,
  session       TEXT,
  agent         TEXT    NOT NULL,
  owner         TEXT    NOT NULL,
  status        TEXT    NOT NULL,
  started_at_ms INTEGER NOT NULL,
  ended_at_ms   INTEGER,
  request       TEXT,
  error         TEXT,
  last_seq      INTEGER NOT NULL,
  chain         BLOB    NOT NULL
) STRICT;
CREATE INDEX runs_by_session ON runs (scope, session, id) WHERE session IS NOT NULL;
CREATE INDEX runs_under_way ON runs (agent) WHERE status = 'running';
CREATE INDEX runs_by_end ON runs (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- What was said in runs that have not ended, by its place in the conversation.
CREATE TABLE run_entries (
  run      INTEGER NOT NULL,
  position INTEGER NOT NULL,
  body     TEXT    NOT NULL,
  PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;

-- Tool calls of runs that have not ended: the intent, then the result.
CREATE TABLE calls (
  run     INTEGER NOT NULL,
  call_id TEXT    NOT NULL,
  name    TEXT    NOT NULL,
  effect  TEXT    NOT NULL,
  result  TEXT,
  PRIMARY KEY (run, call_id)
) STRICT, WITHOUT ROWID;

-- Events, in blocks (see src/store/block.rs). A body without bytes was blanked with its session.
CREATE TABLE events (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  run         INTEGER NOT NULL,
  first_seq   INTEGER NOT NULL,
  last_seq    INTEGER NOT NULL,
  first_at_ms INTEGER NOT NULL,
  last_at_ms  INTEGER NOT NULL,
  types       INTEGER NOT NULL,
  body        BLOB    NOT NULL,
  hash        BLOB    NOT NULL,
  UNIQUE (run, first_seq)
) STRICT;
CREATE INDEX events_by_time ON events (last_at_ms);

-- Large results, by their SHA-256.
CREATE TABLE blobs (
  hash    BLOB    PRIMARY KEY,
  content BLOB    NOT NULL,
  at_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX blobs_by_time ON blobs (at_ms);

-- Events that could not be delivered.
CREATE TABLE dead_letters (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  subscription TEXT    NOT NULL,
  reason       TEXT    NOT NULL,
  attempts     INTEGER NOT NULL,
  at_ms        INTEGER NOT NULL,
  event        TEXT    NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_time ON dead_letters (at_ms);
