"""Hubkeys: what the configurations of Hugging Face's libraries may say, for models of texts.

Each name was looked up in the libraries' sources, transformers 4.48 to 5.24: a number, a choice
among the library's own, a text that is shown or tokenized. None names something to import, open,
fetch, write, compile or run. What is not here is refused.
"""

from typing import Final

from .common import words

# Of config.json: "model_type".
MODEL_TYPES: Final = words(
    """
    albert bart bert big_bird biogpt blenderbot blenderbot-small bloom camembert codegen
    cohere cohere2 convbert ctrl deberta deberta-v2 distilbert electra ernie eurobert falcon
    flaubert fnet funnel gemma gemma2 gemma3_text glm gpt2 gpt_bigcode gpt_neo gpt_neox gptj
    granite granitemoe helium ibert jina_embeddings_v3 led llama longformer longt5 m2m_100
    marian mbart megatron-bert mistral mixtral mobilebert modernbert modernbert-decoder
    mpnet mpt mt5 mvp nomic_bert nystromformer olmo olmo2 opt pegasus persimmon phi phi3
    plbart qwen2 qwen3 rembert roberta roberta-prelayernorm roc_bert roformer smollm3
    splinter squeezebert stablelm starcoder2 switch_transformers t5 umt5 xglm xlm
    xlm-roberta xlm-roberta-xl xlnet xmod
    """
)

# Of config.json, and of tables within it.
CONFIG: Final = words(
    """
    _commit_hash _remove_final_layer_norm activation activation_dropout activation_function
    adapter_layer_norm adapter_reduction_factor adapter_reuse_layer_norm add_bias_logits
    add_cross_attention add_final_layer_norm add_router_probs alibi alibi_bias_max
    apply_residual_connection_post_layernorm asm attention_bias attention_dropout
    attention_factor attention_heads attention_multiplier attention_probs_dropout_prob
    attention_softmax_in_fp32 attention_type attention_types attention_window attn_config
    attn_impl attn_logit_softcapping attn_pdrop attn_type attn_uses_sequence_id beta_fast
    beta_slow bi_data bias block_repeats block_size block_sizes bos_index bos_token_id
    bos_token_ids causal cell chunk_size_feed_forward clamp_len classif_dropout
    classifier_activation classifier_bias classifier_dropout classifier_dropout_prob
    classifier_pooling clip_qkv cls_token_id concat_input conv_act conv_groups
    conv_kernel_size cross_attention_hidden_size ctc_loss_reduction d_ff d_head d_inner d_kv
    d_model decoder_attention_heads decoder_bias decoder_ffn_dim decoder_layerdrop
    decoder_layers decoder_start_token_id decoder_vocab_size default_language dense_act_fn
    dense_seq_output deterministic_flash_attn dff dim directionality do_layer_norm_before
    down_scale_factor dropout dropout_rate emb_dim emb_layer_norm_before emb_pdrop
    embd_pdrop embed_dropout embed_init_std embedding_dropout embedding_fraction
    embedding_multiplier embedding_size enable_bias enable_pronunciation enable_shape
    encoder_attention_heads encoder_attention_type encoder_ffn_dim encoder_layerdrop
    encoder_layers encoder_no_repeat_ngram_size end_n_top eos_index eos_token_id
    expansion_ratio expert_capacity extra_pos_embeddings factor feed_forward_proj
    ff_activation ffn_dim ffn_hidden_size final_logit_softcapping finetuning_task
    force_bos_token_to_be_generated force_dequant forced_eos_token_id full_attention
    fused_bias_fc fused_dropout_add_ln gate_logit_softcapping gelu_activation
    global_attn_every_n_layers global_block_size global_rope_theta gradient_checkpointing
    head_dim head_ratio hidden_act hidden_activation hidden_dim hidden_dropout
    hidden_dropout_prob hidden_size high_freq_factor init_device init_std
    initializer_cutoff_factor initializer_factor initializer_range initializer_std
    inner_group_num input_embedding_size intermediate_groups intermediate_size
    intra_bottleneck_size inv_coeff_init_option is_composition is_decoder is_encoder
    is_encoder_decoder k_groups key_query_shared_bottleneck lang_id language languages
    layer_drop layer_norm_elementwise_affine layer_norm_eps layer_norm_epsilon layer_types
    layerdrop learned_pos_emb legacy ln_before_adapter local_attention local_radius
    local_rope_theta logit_scale logits_scaling long_factor low_freq_factor mask_index
    mask_token_id max_decoder_position_embeddings max_encoder_position_embeddings
    max_position max_position_embeddings max_relative_positions max_seq_len
    max_trained_positions max_window_layers mem_len mlp_bias mlp_dropout mlp_fc1_bias
    mlp_fc2_bias model_max_length model_type mscale mscale_all_dim multi_query
    multi_query_group_num n_ctx n_embd n_head n_heads n_inner n_langs n_layer n_layers
    n_positions n_special ner_labels new_decoder_architecture no_bias no_rope_layer_interval
    no_rope_layers norm_bias norm_eps norm_epsilon norm_rel_ebd norm_type normalization_type
    normalize_before normalize_embedding num_attention_heads num_decoder_layers num_experts
    num_experts_per_tok num_feedforward_networks num_groups num_heads num_hidden_groups
    num_hidden_layers num_key_value_heads num_kv_heads num_labels num_landmarks num_layers
    num_ln_in_parallel_attn num_local_experts num_random_blocks num_sparse_decoder_layers
    num_sparse_encoder_layers onnx_export original_max_position_embeddings output_attentions
    output_embedding_size output_groups output_hidden_states output_past
    output_router_logits pad_index pad_token_id pad_vocab_size_multiple parallel_attn
    partial_rotary_factor pool_q_only pooler_dropout pooler_hidden_act pooler_hidden_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    pooling_type pos_att_type position_biased_input position_embedding_type
    post_attention_groups pre_norm predict_special_tokens prefix_lm prenorm pretraining_tp
    problem_type prompt_length prompt_mid_dim pronunciation_embed_dim
    pronunciation_vocab_size pruned_heads q_groups qa_dropout qk_layernorm qk_ln
    qkv_proj_bias quant_mode query_pre_attn_scalar question_token_id relative_attention
    relative_attention_max_distance relative_attention_num_buckets reorder_and_upcast_attn
    repad_logits_with_grad rescale_embeddings resid_dropout resid_pdrop residual_dropout
    residual_multiplier return_dict reuse_len rms_norm_eps rope_interleaved rope_parameters
    rope_scaling rope_theta rope_type rotary_dim rotary_emb_base rotary_emb_fraction
    rotary_emb_interleaved rotary_emb_scale_base rotary_pct rotary_scaling_factor
    rotary_value router_aux_loss_coef router_bias router_dtype router_ignore_padding_tokens
    router_jitter_noise router_z_loss_coef same_length scalable_attention
    scale_attention_softmax_in_fp32 scale_attn_by_inverse_layer_idx scale_attn_weights
    scale_embedding segment_means_seq_len sep_token_id separate_cls seq_classif_dropout
    seq_length shape_embed_dim shape_vocab_size share_att_key
    share_encoder_decoder_embeddings short_factor sinusoidal_embeddings sinusoidal_pos_embds
    sliding_attention sliding_window sliding_window_pattern slow_but_exact softmax_scale
    sparse_pred_ignore_index sparse_prediction start_n_top static_position_embeddings
    summary_activation summary_first_dropout summary_last_dropout summary_proj_to_labels
    summary_type summary_use_proj task_type_vocab_size tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings token_dropout tokenizer_class torchscript tpu_short_seq_length
    transformers_version trigram_input truncate truncate_seq type type_vocab_size unk_index
    untie_r use_bfloat16 use_bias use_bidirectional_attention use_bottleneck
    use_bottleneck_attention use_cache use_lang_emb use_mems_eval use_mems_train
    use_parallel_residual use_prompt use_qk_norm use_qkv_bias use_return_dict use_rms_norm
    use_sliding_window use_task_id use_tpu_fourier_optimizations v_groups verbose vocab_size
    window_size word_embed_proj_dim xla_device
    """
)

# Of generation_config.json; and what a caller may set for a pipeline.
GENERATION: Final = words(
    """
    _from_model_config assistant_confidence_threshold assistant_early_exit
    assistant_ensemble_weight assistant_lookbehind bad_words_ids begin_suppress_tokens
    bos_token_id decoder_start_token_id disable_compile diversity_penalty do_sample
    dola_layers early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty
    eos_token_id epsilon_cutoff eta_cutoff exponential_decay_length_penalty force_words_ids
    forced_bos_token_id forced_decoder_ids forced_eos_token_id guidance_scale is_assistant
    length_penalty low_memory max_cache_len max_length max_matching_ngram_size
    max_new_tokens max_time min_length min_new_tokens min_p no_repeat_ngram_size
    num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_logits output_scores
    pad_token_id penalty_alpha prefill_chunk_size prompt_lookup_num_tokens
    remove_invalid_values renormalize_logits repetition_penalty return_dict_in_generate
    return_legacy_cache sequence_bias stop_strings suppress_tokens target_lookbehind
    temperature token_healing top_h top_k top_p transformers_version typical_p use_cache
    """
)

# Of tokenizer_config.json; names that end in "_token" are known besides.
TOKENIZER: Final = words(
    """
    add_bos_token add_dummy_prefix add_eos_token add_prefix_space added_tokens_decoder
    additional_special_tokens backend chat_template clean_text clean_up_tokenization_spaces
    do_basic_tokenize do_lower_case do_remove_accents errors extra_ids extra_special_tokens
    fix_mistral_regex is_local keep_accents language_codes legacy local_files_only max_len
    max_length model_input_names model_max_length model_specific_special_tokens name_or_path
    never_split normalization pad_to_multiple_of pad_token_type_id padding_side
    processor_class remove_space sp_model_kwargs spaces_between_special_tokens
    special_tokens_map_file split_by_punct split_special_tokens src_lang stride
    strip_accents tgt_lang tokenize_chinese_chars tokenizer_class trim_offsets
    truncation_side truncation_strategy use_default_system_prompt use_fast verbose
    vocab_type wordpieces_prefix
    """
)
