package issued

import "container/list"

// table is a bounded map: the answer that was used longest ago goes first. Its owner locks.
type table struct {
	most  int
	order *list.List // of *row, front used last
	rows  map[question]*list.Element
}

type row struct {
	q question
	a answer
}

func newTable(most int) *table {
	return &table{most: most, order: list.New(), rows: map[question]*list.Element{}}
}

func (t *table) len() int { return len(t.rows) }

func (t *table) get(q question) (answer, bool) {
	el, ok := t.rows[q]
	if !ok {
		return answer{}, false
	}
	t.order.MoveToFront(el)
	return el.Value.(*row).a, true
}

func (t *table) put(q question, a answer) {
	if el, ok := t.rows[q]; ok {
		el.Value.(*row).a = a
		t.order.MoveToFront(el)
		return
	}
	if len(t.rows) >= t.most {
		t.drop(t.order.Back().Value.(*row).q)
	}
	t.rows[q] = t.order.PushFront(&row{q, a})
}

func (t *table) drop(q question) {
	if el, ok := t.rows[q]; ok {
		t.order.Remove(el)
		delete(t.rows, q)
	}
}
