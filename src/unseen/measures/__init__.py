from unseen.measures.normalized_score import normalized_score, success_rate
