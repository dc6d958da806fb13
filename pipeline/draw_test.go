package pipeline

import (
	"bytes"
	"testing"
)

func TestDraw(t *testing.T) {
	const text = `version: 1
pipelines:
  live:
    - use: ingest
      with: {app: live}
    - use: broadcast
      name: channels
  vod:
    - from: live
    - use: broker
`
	g, err := Parse("f", []byte(text), new(stages).kinds(), testEnv)
	if err != nil {
		t.Fatal(err)
	}
	for format, want := range map[string]string{
		"text": `live
  ingest => channels
vod
  live/channels -> broker
`,
		"dot": `digraph mediad {
	rankdir=LR
	node [shape=box]
	subgraph cluster_0 {
		label="live"
		"live/ingest" [label="ingest"]
		"live/channels" [label="channels\n(broadcast)"]
	}
	subgraph cluster_1 {
		label="vod"
		"vod/broker" [label="broker"]
	}
	"live/ingest" -> "live/channels" [style=bold]
	"live/channels" -> "vod/broker"
}
`,
		"mermaid": `flowchart LR
  subgraph p0 [live]
    s0["ingest"]
    s1["channels<br>(broadcast)"]
  end
  subgraph p1 [vod]
    s2["broker"]
  end
  s0 ==> s1
  s1 --> s2
`,
	} {
		var got bytes.Buffer
		if err := g.Draw(&got, format); err != nil || got.String() != want {
			t.Errorf("%s: %v\n%s", format, err, &got)
		}
	}
	if err := g.Draw(new(bytes.Buffer), "png"); err == nil {
		t.Error("png was drawn")
	}
}
