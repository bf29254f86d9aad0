-- Small states that are replaced as a whole: approvals that wait for somebody's word, workflows between two steps.
CREATE TABLE heads (
  kind          TEXT    NOT NULL,
  scope         TEXT    NOT NULL,
  name          TEXT    NOT NULL,
  run_id        TEXT,
  version       INTEGER NOT NULL,
  body          TEXT    NOT NULL,
  updated_at_ms INTEGER NOT NULL,
  PRIMARY KEY (kind, scope, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX heads_by_run ON heads (run_id) WHERE run_id IS NOT NULL;
