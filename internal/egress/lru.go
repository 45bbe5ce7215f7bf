package egress

import "container/list"

// lru is a map that forgets what was used longest ago. It is not safe for
// callers at the same time.
type lru[K comparable, V any] struct {
	most    int
	order   *list.List // of *entry, the newest in front
	entries map[K]*list.Element
	dropped func(K, V)
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// newLRU holds at most so many; dropped, unless nil, is told what goes.
func newLRU[K comparable, V any](most int, dropped func(K, V)) *lru[K, V] {
	return &lru[K, V]{most: most, order: list.New(), entries: map[K]*list.Element{}, dropped: dropped}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.entries[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if e, ok := l.entries[key]; ok {
		e.Value.(*entry[K, V]).value = value
		l.order.MoveToFront(e)
		return
	}
	l.entries[key] = l.order.PushFront(&entry[K, V]{key, value})
	if l.order.Len() > l.most {
		l.drop(l.order.Back().Value.(*entry[K, V]).key)
	}
}

func (l *lru[K, V]) drop(key K) {
	e, ok := l.entries[key]
	if !ok {
		return
	}
	delete(l.entries, key)
	l.order.Remove(e)
	if l.dropped != nil {
		l.dropped(key, e.Value.(*entry[K, V]).value)
	}
}

// all visits the newest first, until visit says false.
func (l *lru[K, V]) all(visit func(K, V) bool) {
	for e := l.order.Front(); e != nil; e = e.Next() {
		if kv := e.Value.(*entry[K, V]); !visit(kv.key, kv.value) {
			return
		}
	}
}
