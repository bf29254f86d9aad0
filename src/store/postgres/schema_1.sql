-- What this database is: the version of its tables, and what was removed from them.
CREATE TABLE facts (
  name  text   PRIMARY KEY,
  value bigint NOT NULL
);

-- Runtimes that live, or did when they were last seen.
CREATE TABLE runtimes (
  owner   text        PRIMARY KEY,
  seen_at timestamptz NOT NULL,
  listens boolean     NOT NULL
);

-- Which runtime works on a session. Void when that lives no more.
CREATE TABLE leases (
  scope text NOT NULL,
  name  text NOT NULL,
  owner text NOT NULL,
  token uuid NOT NULL,
  PRIMARY KEY (scope, name)
);
CREATE INDEX leases_by_owner ON leases (owner);

-- Conversations that have a name. `entries` is how many there are in the table of that name.
CREATE TABLE sessions (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  scope         text   NOT NULL,
  name          text   NOT NULL,
  version       bigint NOT NULL,
  head          text   NOT NULL,
  entries       bigint NOT NULL,
  messages      bigint NOT NULL,
  created_at_ms bigint NOT NULL,
  updated_at_ms bigint NOT NULL,
  UNIQUE (scope, name)
);
CREATE INDEX sessions_by_time ON sessions (updated_at_ms);

-- What was said: what the user said, or what the model said with the results of its calls, as a JSON array of messages.
CREATE TABLE entries (
  session  bigint NOT NULL,
  position bigint NOT NULL,
  body     text   NOT NULL,
  PRIMARY KEY (session, position)
);

-- Runs. `request` is there as long as it may be needed to go on.
CREATE TABLE runs (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id        text   NOT NULL UNIQUE,
  scope         text   NOT NULL,
  session       text,
  agent         text   NOT NULL,
  owner         text   NOT NULL,
  status        text   NOT NULL,
  started_at_ms bigint NOT NULL,
  ended_at_ms   bigint,
  request       text,
  error         text,
  last_seq      bigint NOT NULL,
  chain         bytea  NOT NULL
);
CREATE INDEX runs_by_session ON runs (scope, session, id) WHERE session IS NOT NULL;
CREATE INDEX runs_under_way ON runs (agent) WHERE status = 'running';
CREATE INDEX runs_by_end ON runs (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- What was said in runs that have not ended, by its place in the conversation.
CREATE TABLE run_entries (
  run      bigint NOT NULL,
  position bigint NOT NULL,
  body     text   NOT NULL,
  PRIMARY KEY (run, position)
);

-- Tool calls of runs that have not ended: the intent, then the result.
CREATE TABLE calls (
  run     bigint NOT NULL,
  call_id text   NOT NULL,
  name    text   NOT NULL,
  effect  text   NOT NULL,
  result  text,
  PRIMARY KEY (run, call_id)
);

-- Events, in blocks (see src/store/block.rs), which are compressed already. A body without bytes was blanked with its session.
CREATE TABLE events (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run         bigint NOT NULL,
  first_seq   bigint NOT NULL,
  last_seq    bigint NOT NULL,
  first_at_ms bigint NOT NULL,
  last_at_ms  bigint NOT NULL,
  types       bigint NOT NULL,
  body        bytea  NOT NULL,
  hash        bytea  NOT NULL,
  UNIQUE (run, first_seq)
);
ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX events_by_time ON events (last_at_ms);

-- Large results, by their SHA-256.
CREATE TABLE blobs (
  hash    bytea  PRIMARY KEY,
  content bytea  NOT NULL,
  at_ms   bigint NOT NULL
);
CREATE INDEX blobs_by_time ON blobs (at_ms);

-- Events that could not be delivered.
CREATE TABLE dead_letters (
  id           bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  subscription text    NOT NULL,
  reason       text    NOT NULL,
  attempts     bigint  NOT NULL,
  at_ms        bigint  NOT NULL,
  event        text    NOT NULL
);
CREATE INDEX dead_letters_by_time ON dead_letters (at_ms);

-- Small states that are replaced as a whole: approvals that wait for somebody's word, workflows between two steps.
CREATE TABLE heads (
  kind          text   NOT NULL,
  scope         text   NOT NULL,
  name          text   NOT NULL,
  run_id        text,
  version       bigint NOT NULL,
  body          text   NOT NULL,
  updated_at_ms bigint NOT NULL,
  PRIMARY KEY (kind, scope, name)
);
CREATE INDEX heads_by_run ON heads (run_id) WHERE run_id IS NOT NULL;
