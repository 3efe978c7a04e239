package status

// Sample takes one more sample for the charts, as Run does every ten seconds.
func (s *Server) Sample(r Report) { s.history.add(r) }
